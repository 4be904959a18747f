/** Plots as inline SVG: no script, no font, no file beside the page. Colours are the page's CSS variables. */

export const escapeHtml = (text: string): string =>
  text.replace(/[&<>"']/g, c => `&#${c.charCodeAt(0)};`).replace(/[^\P{Cc}\n\t]/gu, '\uFFFD');

const WIDTH = 640;
const LEFT = 56;
const BOTTOM = 36;
const TOP = 12;

/** About `count` round numbers that cover a range. */
export function ticks(low: number, high: number, count = 5): number[] {
  if (!(high > low)) return [low];
  const raw = (high - low) / count;
  const size = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(m => m * size).find(s => s >= raw) ?? raw;
  const out: number[] = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++)
    out.push(Number((n * step).toPrecision(12)));
  return out;
}

const number = (value: number): string => Number(value.toPrecision(4)).toString();
const svg = (height: number, label: string, body: string): string =>
  `<svg viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="${escapeHtml(label)}">${body}</svg>`;
const text = (x: number, y: number, anchor: string, value: string): string =>
  `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" text-anchor="${anchor}">${escapeHtml(value)}</text>`;

function axes(height: number, x: Scale, y: Scale, labels: { x: string; y: string }): string {
  const base = height - BOTTOM;
  const lines = y.ticks.map(
    v => `<line class="grid" x1="${LEFT}" x2="${WIDTH - 8}" y1="${y.at(v).toFixed(1)}" y2="${y.at(v).toFixed(1)}"/>`,
  );
  return [
    ...lines,
    ...y.ticks.map(v => text(LEFT - 6, y.at(v) + 4, 'end', number(v))),
    ...x.ticks.map(v => text(x.at(v), base + 16, 'middle', number(v))),
    text((LEFT + WIDTH) / 2, height - 4, 'middle', labels.x),
    `<text transform="translate(12 ${(TOP + base) / 2}) rotate(-90)" text-anchor="middle">${escapeHtml(labels.y)}</text>`,
  ].join('');
}

interface Scale {
  readonly at: (value: number) => number;
  readonly ticks: number[];
}

const scale = (low: number, high: number, from: number, to: number): Scale => ({
  at: value => from + ((value - low) / (high > low ? high - low : 1)) * (to - from),
  ticks: ticks(low, high),
});

/** How values are spread: bars of equal width from the least to the greatest, at most 40. */
export function histogram(values: readonly number[], labels: { x: string; y: string }): string {
  const height = 220;
  const low = Math.min(...values);
  const high = Math.max(...values);
  const bins = Math.max(1, Math.min(40, Math.ceil(Math.sqrt(values.length))));
  const counts = new Array<number>(bins).fill(0);
  for (const value of values) counts[Math.min(bins - 1, Math.floor(((value - low) / (high - low || 1)) * bins))]!++;
  const x = scale(low, high, LEFT, WIDTH - 12);
  const y = scale(0, Math.max(...counts), height - BOTTOM, TOP);
  const each = (WIDTH - 12 - LEFT) / bins;
  const bars = counts.map(
    (count, i) =>
      `<rect x="${(LEFT + i * each + 0.5).toFixed(1)}" y="${y.at(count).toFixed(1)}" width="${Math.max(0.5, each - 1).toFixed(1)}" height="${(y.at(0) - y.at(count)).toFixed(1)}"/>`,
  );
  return svg(height, `Histogram: ${labels.x}`, axes(height, x, y, labels) + bars.join(''));
}

/** A line through values by their place: a loss a step. Gaps where a value is null. */
export function line(values: readonly (number | null)[], labels: { x: string; y: string }): string {
  const height = 240;
  const known = values.filter(v => v !== null);
  const x = scale(1, Math.max(2, values.length), LEFT, WIDTH - 12);
  const y = scale(Math.min(...known), Math.max(...known), height - BOTTOM, TOP);
  let path = '';
  let pen = 'M';
  for (const [i, value] of values.entries()) {
    if (value === null) pen = 'M';
    else {
      path += `${pen}${x.at(i + 1).toFixed(1)} ${y.at(value).toFixed(1)}`;
      pen = 'L';
    }
  }
  return svg(height, `${labels.y} by ${labels.x}`, `${axes(height, x, y, labels)}<path d="${path}"/>`);
}

/** Named shares from 0 to 1, a bar each. */
export function bars(items: readonly (readonly [name: string, value: number])[], label: string): string {
  const row = 16;
  const left = 220;
  const height = items.length * row + 8;
  const full = WIDTH - left - 60;
  const body = items.map(([name, value], i) => {
    const y = 4 + i * row;
    const cut = name.length > 34 ? `${name.slice(0, 33)}…` : name;
    return (
      text(left - 6, y + 11, 'end', cut) +
      `<rect x="${left}" y="${y + 2}" width="${(full * value).toFixed(1)}" height="${row - 5}"/>` +
      text(left + full * value + 5, y + 11, 'start', value.toFixed(3))
    );
  });
  return svg(height, label, body.join(''));
}
