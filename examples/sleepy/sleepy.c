/* Sleeps its argument in seconds (1 if none; fractions allowed) inside one host call, poll_oneoff. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int main(int argc, char **argv) {
  double seconds = argc > 1 ? strtod(argv[1], NULL) : 1.0;
  struct timespec span = {.tv_sec = (time_t)seconds};
  span.tv_nsec = (long)((seconds - (double)span.tv_sec) * 1e9);
  if (nanosleep(&span, NULL) != 0) return 1;
  printf("slept %g s\n", seconds);
  return 0;
}
