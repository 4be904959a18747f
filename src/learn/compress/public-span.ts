/** The directions in which public texts differ from one another: a few hundred of the many that a release has noise in. */
export class PublicSpan {
  readonly #rows: readonly Float32Array[];
  readonly #lower: readonly Float64Array[];

  /** @param rows public texts' own differences, all of one length and far fewer than that */
  constructor(rows: readonly Float32Array[]) {
    this.#rows = rows;
    this.#lower = cholesky(rows.map((row, i) => Float64Array.from({ length: i + 1 }, (_, j) => dot(row, rows[j]!))));
  }

  get rank(): number {
    return this.#rows.length;
  }

  /** The part of x that lies in the span. */
  project(x: Float64Array): Float64Array {
    const lower = this.#lower;
    const n = this.#rows.length;
    const c = Float64Array.from(this.#rows, row => dot(row, x));
    for (let i = 0; i < n; i++) {
      for (let k = 0; k < i; k++) c[i]! -= lower[i]![k]! * c[k]!;
      c[i]! /= lower[i]![i]!;
    }
    for (let i = n - 1; i >= 0; i--) {
      for (let k = i + 1; k < n; k++) c[i]! -= lower[k]![i]! * c[k]!;
      c[i]! /= lower[i]![i]!;
    }
    const out = new Float64Array(x.length);
    for (const [r, row] of this.#rows.entries()) for (let i = 0; i < row.length; i++) out[i]! += c[r]! * row[i]!;
    return out;
  }
}

function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}

/** Of the diagonal: differences from a mean are one short of independent, and texts may be the same. */
const RIDGE = 1e-6;

/** Lower triangle of a positive matrix, in its place. */
function cholesky(rows: Float64Array[]): Float64Array[] {
  const ridge = (RIDGE * rows.reduce((sum, row, i) => sum + row[i]!, 0)) / rows.length + Number.MIN_VALUE;
  for (const [i, row] of rows.entries()) {
    for (let j = 0; j <= i; j++) {
      const other = rows[j]!;
      let sum = row[j]! + (i === j ? ridge : 0);
      for (let k = 0; k < j; k++) sum -= row[k]! * other[k]!;
      row[j] = i === j ? Math.sqrt(Math.max(sum, ridge)) : sum / other[j]!;
    }
  }
  return rows;
}
