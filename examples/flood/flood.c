/* Prints as many bytes as its argument says (10 MiB if none), in lines of 64 bytes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINE = 64, LINES = 1024 };

int main(int argc, char **argv) {
  unsigned long long left = argc > 1 ? strtoull(argv[1], NULL, 10) : 10ull << 20;
  static char block[LINE * LINES];
  memset(block, '.', sizeof block);
  for (int line = 1; line <= LINES; line++) block[line * LINE - 1] = '\n';
  while (left > 0) {
    size_t piece = left < sizeof block ? (size_t)left : sizeof block;
    if (fwrite(block, 1, piece, stdout) != piece) {
      fputs("flood: the output was cut\n", stderr);
      return 1;
    }
    left -= piece;
  }
  return fflush(stdout) != 0;
}
