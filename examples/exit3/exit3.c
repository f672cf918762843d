/* Fails with exit code 3 after writing to both streams. */
#include <stdio.h>

int main(void) {
  puts("partial output");
  fputs("exit3: giving up\n", stderr);
  return 3;
}
