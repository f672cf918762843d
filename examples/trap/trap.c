/* Prints a line, then executes `unreachable`: what a crash looks like from outside. */
#include <stdio.h>

int main(void) {
  puts("before the trap");
  fflush(stdout);
  __builtin_trap();
}
