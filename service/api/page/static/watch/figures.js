// Numbers as a person reads them.

const whole = new Intl.NumberFormat("en");

/** With three digits that matter, or all of a whole number. */
export function number(value) {
  if (Math.abs(value) >= 100 || Number.isInteger(value)) return whole.format(Math.round(value));
  return String(Number(value.toPrecision(Math.abs(value) >= 10 ? 3 : 2)));
}

/** A time in seconds. */
export function seconds(value) {
  if (value < 1) return `${number(1000 * value)} ms`;
  return value < 120 ? `${number(value)} s` : `${number(Math.round(value / 60))} min`;
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

export function bytes(value) {
  const power = value < 1 ? 0 : Math.min(UNITS.length - 1, Math.floor(Math.log2(value) / 10));
  return `${number(value / 2 ** (10 * power))} ${UNITS[power]}`;
}

/** A p-value or a share, without zeros that say nothing. */
export const share = (value) => (value === 0 ? "0" : String(Number(value.toPrecision(2))));

/** How rare a p-value is: "1 in 10,000", "1 in 30", "40 in 100". */
export function rarity(p) {
  if (p > 0.1) return `${Math.round(100 * p)} in 100`;
  const one = 1 / p;
  const digits = 10 ** Math.max(0, Math.floor(Math.log10(one)) - 1);
  return `1 in ${number(Math.round(one / digits) * digits)}`;
}
