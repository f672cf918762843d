/* Copies stdin to stdout, for the `stdin` interface and for bodies of any size. */
#include <unistd.h>

int main(void) {
  static char buffer[65536];
  ssize_t got;
  while ((got = read(0, buffer, sizeof buffer)) > 0)
    for (ssize_t done = 0; done < got;) {
      ssize_t wrote = write(1, buffer + done, (size_t)(got - done));
      if (wrote <= 0) return 1;
      done += wrote;
    }
  return got < 0;
}
