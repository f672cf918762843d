/* Never ends: only a deadline stops it. */
int main(void) {
  for (volatile unsigned turns = 0;; turns++) {
  }
}
