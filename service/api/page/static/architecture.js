// A network's architecture, in words and numbers.

import { texts } from "./texts.js";

const product = (sides) => sides.reduce((all, side) => all * side, 1);

/** Encoder and decoder in words, and the number of parameters where the widths alone tell. */
export function describe({ architecture, image_shape, hidden_sizes, latent_size, detector }) {
  const words = texts.about.architecture;
  const kind = words.kinds[architecture] ?? architecture;
  if (architecture !== "mlp") {
    const channels = hidden_sizes.slice(0, -1);
    return { kind, layers: words.convolutional(channels, hidden_sizes.at(-1), latent_size), detector };
  }
  const pixels = product(image_shape);
  const encoder = [pixels, ...hidden_sizes, 2 * latent_size];
  const decoder = [latent_size, ...hidden_sizes.toReversed(), pixels];
  const parameters = [encoder, decoder].flatMap((sizes) =>
    sizes.slice(1).map((size, i) => (sizes[i] + 1) * size),
  );
  return {
    kind,
    layers: words.connected(encoder, decoder),
    parameters: parameters.reduce((a, b) => a + b),
    detector,
  };
}
