// Reads pairs of words from standard input, writes the pairs of normal values made of them.
#include "residual_shift.h"

#include <cstdio>

int main() {
  lpnsr::u32 words[2];
  while (std::fread(words, sizeof words, 1, stdin) == 1) {
    const lpnsr::Pair pair = lpnsr::normals(words[0], words[1]);
    std::fwrite(&pair, sizeof pair, 1, stdout);
  }
}
