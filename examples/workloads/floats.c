/* `floats N`: N times sine, cosine and square root, added up. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
  long count = argc > 1 ? strtol(argv[1], NULL, 10) : 100000;
  double sum = 0;
  for (long i = 0; i < count; i++) sum += sin((double)i) * cos((double)i) + sqrt((double)i);
  printf("%.6f\n", sum);
  return 0;
}
