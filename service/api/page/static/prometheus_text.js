// Prometheus's text format, as /metrics answers it.

const SAMPLE = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})?[ \t]+(\S+)/;
const LABEL = /([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"/g;
const ESCAPED = { n: "\n", '"': '"', "\\": "\\" };

const number = (text) =>
  ({ "+Inf": Infinity, Inf: Infinity, "-Inf": -Infinity })[text] ?? Number(text);

/** All samples: a `Map` of names to `[{labels, value}]`. Comments and broken lines are left out. */
export function parse(text) {
  const samples = new Map();
  for (const line of text.split("\n")) {
    const found = SAMPLE.exec(line);
    if (!found) continue;
    const [, name, inner, value] = found;
    const labels = {};
    for (const [, key, quoted] of (inner ?? "").matchAll(LABEL)) {
      labels[key] = quoted.replace(/\\(.)/g, (whole, character) => ESCAPED[character] ?? whole);
    }
    if (!samples.has(name)) samples.set(name, []);
    samples.get(name).push({ labels, value: number(value) });
  }
  return samples;
}
