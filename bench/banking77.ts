import { existsSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parse } from 'csv-parse/sync';

/** BANKING77 (Casanueva et al. 2020, CC-BY-4.0) beside the checkout; it is not part of the project. */
export interface Labelled {
  readonly text: string;
  readonly label: string;
}

const folder = (): string => resolve(import.meta.dirname, '../../shared/data/banking77');

/** Why it cannot be used here; undefined when it can. */
export const missingBanking77 = (): string | undefined =>
  existsSync(join(folder(), 'train.csv')) ? undefined : 'BANKING77 is not at ../shared/data/banking77';

export function banking77(part: 'train' | 'test'): Labelled[] {
  const rows = parse(readFileSync(join(folder(), `${part}.csv`)), { columns: true }) as {
    text: string;
    category: string;
  }[];
  return rows.map(({ text, category }) => ({ text: text.replace(/\s+/g, ' ').trim(), label: category }));
}
