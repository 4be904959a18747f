/**
 * A binary min-heap of (rank, place), ordered by rank then place. Both are packed in one double: ranks below 2^21 and places
 * below 2^32 keep it exact.
 */
export class MergeHeap {
  readonly #items: number[] = [];

  get size(): number {
    return this.#items.length;
  }

  push(rank: number, place: number): void {
    const items = this.#items;
    const item = rank * 2 ** 32 + place;
    let i = items.length;
    items.push(item);
    while (i > 0) {
      const parent = (i - 1) >> 1;
      if (items[parent]! <= item) break;
      items[i] = items[parent]!;
      i = parent;
    }
    items[i] = item;
  }

  pop(): { rank: number; place: number } {
    const items = this.#items;
    const top = items[0]!;
    const last = items.pop()!;
    const n = items.length;
    if (n > 0) {
      let i = 0;
      for (;;) {
        let child = 2 * i + 1;
        if (child >= n) break;
        if (child + 1 < n && items[child + 1]! < items[child]!) child++;
        if (items[child]! >= last) break;
        items[i] = items[child]!;
        i = child;
      }
      items[i] = last;
    }
    const rank = Math.floor(top / 2 ** 32);
    return { rank, place: top - rank * 2 ** 32 };
  }
}
