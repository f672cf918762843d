/* Writes its arguments to stdout and to stderr, told apart by a prefix. */
#include <stdio.h>

int main(int argc, char **argv) {
  puts("to stdout");
  fputs("to stderr\n", stderr);
  for (int i = 1; i < argc; i++) {
    printf("out: %s\n", argv[i]);
    fprintf(stderr, "err: %s\n", argv[i]);
  }
  return 0;
}
