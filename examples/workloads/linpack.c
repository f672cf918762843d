/* `linpack N`: solves N equations by elimination with pivoting, and says how wrong the solution is. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
  int n = argc > 1 ? atoi(argv[1]) : 100;
  if (n < 1 || n > 2000) return 2;
  double *a = malloc(sizeof *a * (size_t)n * (size_t)n), *b = calloc((size_t)n, sizeof *b);
  if (!a || !b) return 1;
  uint32_t state = 1;
  for (int i = 0; i < n; i++)
    for (int k = 0; k < n; k++) {
      state = state * 1664525u + 1013904223u;
      a[i * n + k] = (double)(state >> 8) / (1 << 24) - 0.5;
      b[i] += a[i * n + k]; /* so the solution is all ones */
    }
  for (int step = 0; step < n; step++) {
    int pivot = step;
    for (int i = step + 1; i < n; i++)
      if (fabs(a[i * n + step]) > fabs(a[pivot * n + step])) pivot = i;
    if (a[pivot * n + step] == 0) return 3;
    for (int k = step; k < n; k++) {
      double swap = a[step * n + k];
      a[step * n + k] = a[pivot * n + k], a[pivot * n + k] = swap;
    }
    double swap = b[step];
    b[step] = b[pivot], b[pivot] = swap;
    for (int i = step + 1; i < n; i++) {
      double factor = a[i * n + step] / a[step * n + step];
      for (int k = step; k < n; k++) a[i * n + k] -= factor * a[step * n + k];
      b[i] -= factor * b[step];
    }
  }
  double worst = 0;
  for (int i = n - 1; i >= 0; i--) {
    for (int k = i + 1; k < n; k++) b[i] -= a[i * n + k] * b[k];
    b[i] /= a[i * n + i];
    if (fabs(b[i] - 1) > worst) worst = fabs(b[i] - 1);
  }
  printf("%d equations, largest error %.3e\n", n, worst);
  return 0;
}
