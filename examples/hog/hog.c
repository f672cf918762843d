/* Takes memory one MiB at a time, up to its argument (no limit if none), and says how much it got. */
#include <stdio.h>
#include <stdlib.h>

enum { MIB = 1 << 20, PAGE = 4096 };

int main(int argc, char **argv) {
  long wanted = argc > 1 ? strtol(argv[1], NULL, 10) : 1L << 30, got = 0;
  for (; got < wanted; got++) {
    volatile char *block = malloc(MIB);
    if (!block) break;
    for (int offset = 0; offset < MIB; offset += PAGE) block[offset] = 1;
  }
  printf("%ld MiB\n", got);
  return argc > 1 && got < wanted;
}
