// Numbers in words. Unknown values are an en dash.

const NONE = "–";
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];
const COUNT = new Intl.NumberFormat("en");
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

/** @param {number | null | undefined} value */
export function bytes(value) {
  if (value === null || value === undefined) return NONE;
  let unit = 0;
  let left = value;
  while (Math.abs(left) >= 1000 && unit < UNITS.length - 1) {
    left /= 1024;
    unit += 1;
  }
  const digits = unit < 2 || Math.abs(left) >= 100 ? 0 : Math.abs(left) >= 10 ? 1 : 2;
  return `${left.toFixed(digits)} ${UNITS[unit]}`;
}

/** @param {number | null | undefined} value */
export function seconds(value) {
  if (value === null || value === undefined) return NONE;
  if (value < 0.9995) return `${Math.round(value * 1000)} ms`;
  if (value < 10) return `${value.toFixed(1)} s`;
  const whole = Math.round(value);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

/** A time that grows, without fractions that flicker. @param {number | null | undefined} value */
export function age(value) {
  if (value === null || value === undefined) return NONE;
  return value < 60 ? `${Math.max(0, Math.round(value))} s` : seconds(value);
}

/** @param {number | null | undefined} value */
export function count(value) {
  return value === null || value === undefined ? NONE : COUNT.format(value);
}

/** @param {number | null | undefined} value */
export function rate(value) {
  if (value === null || value === undefined) return NONE;
  return value >= 100 ? COUNT.format(Math.round(value)) : value.toFixed(1);
}

/** Tokens of a context: 16384 is "16k". @param {number | null | undefined} value */
export function tokens(value) {
  if (value === null || value === undefined) return NONE;
  return value >= 1024 && value % 1024 === 0 ? `${value / 1024}k` : COUNT.format(value);
}

/** @param {number} at UNIX time */
export function clock(at) {
  const date = new Date(at * 1000);
  const time = CLOCK.format(date);
  return date.toDateString() === new Date().toDateString() ? time : `${DAY.format(date)}, ${time}`;
}

/** @param {number} value @param {string} noun @param {string} [plural] */
export function plural(value, noun, plural = `${noun}s`) {
  return `${COUNT.format(value)} ${value === 1 ? noun : plural}`;
}

/** What is known, with dots between. @param {...(string | false | null | undefined | 0)} parts */
export const dotted = (...parts) => parts.filter(Boolean).join(" · ");
