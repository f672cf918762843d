/* Prints its environment, sorted, one NAME=value a line. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern char **environ;

static int by_name(const void *left, const void *right) {
  return strcmp(*(char *const *)left, *(char *const *)right);
}

int main(void) {
  size_t count = 0;
  (void)getenv("PATH"); /* wasi-libc fills environ at its first use */
  while (environ && environ[count]) count++;
  if (count) qsort(environ, count, sizeof *environ, by_name);
  for (size_t i = 0; i < count; i++) puts(environ[i]);
  return 0;
}
