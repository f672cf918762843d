/* Prints bytes that are not UTF-8: a lone continuation byte, a cut sequence, a surrogate, 0xff. */
#include <stdio.h>

int main(void) {
  static const char bytes[] = "ok \x80 \xc3( \xed\xa0\x80 \xff\n";
  return fwrite(bytes, 1, sizeof bytes - 1, stdout) != sizeof bytes - 1;
}
