import { randomInt } from 'node:crypto';

/** `size` of the items, every subset equally likely, in their own order; all of them where there are no more. */
export function sample<T>(items: readonly T[], size: number): T[] {
  if (items.length <= size) return [...items];
  // Robert Floyd's algorithm: one draw an item chosen, whatever the number it is chosen from.
  const chosen = new Set<number>();
  for (let j = items.length - size; j < items.length; j++) {
    const pick = randomInt(j + 1);
    chosen.add(chosen.has(pick) ? j : pick);
  }
  return [...chosen].sort((a, b) => a - b).map(i => items[i]!);
}

/** The items in an order of which each is equally likely (Fisher and Yates). */
export function shuffled<T>(items: readonly T[]): T[] {
  const mixed = [...items];
  for (let i = mixed.length - 1; i > 0; i--) {
    const j = randomInt(i + 1);
    [mixed[i], mixed[j]] = [mixed[j]!, mixed[i]!];
  }
  return mixed;
}
