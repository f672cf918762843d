/* Burns CPU: as many xorshift steps as its argument says (1,000,000 if none). */
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
  unsigned long long steps = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000000;
  unsigned state = 2463534242u, sum = 0;
  for (unsigned long long i = 0; i < steps; i++) {
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    sum += state;
  }
  printf("%u\n", sum);
  return 0;
}
