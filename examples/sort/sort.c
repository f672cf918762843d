/* Sorts its arguments as integers: the example every WasmFunction user starts from. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static int ascending(const void *left, const void *right) {
  long long a = *(const long long *)left, b = *(const long long *)right;
  return (a > b) - (a < b);
}

int main(int argc, char **argv) {
  int count = argc - 1;
  long long *numbers = malloc(sizeof *numbers * (count > 0 ? (size_t)count : 1));
  if (!numbers) {
    fputs("sort: not enough memory\n", stderr);
    return 1;
  }
  for (int i = 0; i < count; i++) {
    char *end;
    errno = 0;
    numbers[i] = strtoll(argv[i + 1], &end, 10);
    if (errno || end == argv[i + 1] || *end) {
      fprintf(stderr, "sort: not an integer: %s\n", argv[i + 1]);
      return 2;
    }
  }
  qsort(numbers, (size_t)count, sizeof *numbers, ascending);
  for (int i = 0; i < count; i++) printf("%lld%c", numbers[i], i == count - 1 ? '\n' : ' ');
  return 0;
}
