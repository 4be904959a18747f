import { seeded } from './inquiries.ts';

/** Generated documents in two styles: everyday mail, and a laboratory's log with words of its own. Written for the tests. */
const STYLES: Record<'mail' | 'log', readonly string[]> = {
  mail: [
    'my {who} sent a letter to the {place} about the {thing}',
    'please tell the {place} that the {thing} is {state}',
    'we bought a {thing} at the {place} and it was {state}',
    'the {who} at the {place} said my {thing} is {state}',
  ],
  log: [
    'sensor {code} drift minus {n} kelvin, valve {code} shut, coil purge {n} of {n}',
    'run {code}: plasma flux {n} tesla, vacuum at {n} pascal, coil {code} quench',
    'cryostat {code} refill {n} litre, flux trace {code} nominal, purge valve {n}',
    'valve {code} stuck at {n} pascal, operator vented coil {code}, flux {n} tesla',
  ],
};
const WORDS: Record<string, readonly string[]> = {
  who: ['manager', 'driver', 'neighbour', 'sister', 'teacher'],
  place: ['bank', 'shop', 'office', 'station', 'company'],
  thing: ['card', 'order', 'parcel', 'ticket', 'phone', 'contract'],
  state: ['late', 'lost', 'broken', 'new', 'wrong', 'missing'],
  code: ['kx7', 'qv2', 'zr9', 'wj4'],
  n: ['3', '17', '42', '88'],
};

export function documents(style: 'mail' | 'log', count: number, seed: number): string[] {
  const random = seeded(seed);
  const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)]!;
  return Array.from({ length: count }, (_, i) => {
    const text = pick(STYLES[style]).replace(/\{(\w+)\}/g, (_, slot: string) => pick(WORDS[slot]!));
    // Every document differs, so that none is taken for a repetition.
    return `${text}, note ${i.toString(36)}.`;
  });
}

export const documentEvents = (texts: readonly string[], source: string, user?: (i: number) => string): unknown[] =>
  texts.map((text, i) => ({
    specversion: '1.0',
    id: `${source}-${i}`,
    source: `test/${source}`,
    type: 'learnd.document',
    data: { text, source, ...(user ? { user: user(i) } : {}) },
  }));
