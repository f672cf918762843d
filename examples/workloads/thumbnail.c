/* `thumbnail SIDE`: shrinks the PPM image (P6) on stdin to at most SIDE pixels a side, by averaging. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
  int side = argc > 1 ? atoi(argv[1]) : 128, width, height, most;
  if (side < 1 || scanf("P6 %d %d %d", &width, &height, &most) != 3 || most != 255 || width < 1 ||
      height < 1 || width > 16384 || height > 16384) {
    fputs("thumbnail: stdin is no PPM image with 8 bits a sample\n", stderr);
    return 2;
  }
  getchar(); /* the one white space before the samples */
  int longer = width > height ? width : height;
  int w = longer > side ? width * side / longer : width, h = longer > side ? height * side / longer : height;
  if (!w) w = 1;
  if (!h) h = 1;
  size_t size = (size_t)width * (size_t)height * 3;
  uint8_t *in = malloc(size), *out = malloc((size_t)w * (size_t)h * 3);
  if (!in || !out || fread(in, 1, size, stdin) != size) return 1;
  for (int y = 0; y < h; y++)
    for (int x = 0; x < w; x++) {
      int top = y * height / h, bottom = (y + 1) * height / h, left = x * width / w, right = (x + 1) * width / w;
      uint32_t sum[3] = {0}, count = (uint32_t)((bottom - top) * (right - left));
      for (int row = top; row < bottom; row++)
        for (int column = left; column < right; column++)
          for (int c = 0; c < 3; c++) sum[c] += in[(row * width + column) * 3 + c];
      for (int c = 0; c < 3; c++) out[(y * w + x) * 3 + c] = (uint8_t)(sum[c] / count);
    }
  printf("P6\n%d %d\n255\n", w, h);
  return fwrite(out, 3, (size_t)(w * h), stdout) != (size_t)(w * h);
}
