/** Which rows of a microbatch belong to which privacy unit: a unit's rows follow each other, units in order. */

/** Neighbouring units with equally many rows, so that one batched op serves them all. */
export interface Run {
  readonly firstUnit: number;
  readonly units: number;
  readonly firstRow: number;
  /** Of each unit. */
  readonly rows: number;
}

/** @param counts Rows of each unit, in order. */
export function runsOf(counts: readonly number[]): Run[] {
  const runs: { firstUnit: number; units: number; firstRow: number; rows: number }[] = [];
  let row = 0;
  counts.forEach((rows, unit) => {
    const last = runs.at(-1);
    if (last !== undefined && last.rows === rows) last.units += 1;
    else runs.push({ firstUnit: unit, units: 1, firstRow: row, rows });
    row += rows;
  });
  return runs;
}

/** Ends of chunks of at most `most` rows that no unit is cut by; a larger unit is a chunk of its own. */
export function unitChunks(counts: readonly number[], most: number): number[] {
  const ends: number[] = [];
  let begin = 0;
  let end = 0;
  for (const rows of counts) {
    if (end > begin && end + rows - begin > most) {
      ends.push(end);
      begin = end;
    }
    end += rows;
  }
  if (end > begin) ends.push(end);
  return ends;
}

/** Rows of each unit of which the given row lists say whose they are. */
export function countsByUnit(unitOfRow: Int32Array, units: number): number[] {
  const counts = new Array<number>(units).fill(0);
  for (const unit of unitOfRow) counts[unit]! += 1;
  return counts;
}
