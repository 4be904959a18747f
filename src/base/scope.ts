/**
 * What is acquired pushes its release; releases run last-in first-out. The first error is kept and rethrown after every
 * release has had its turn; closing twice is a no-op that awaits the first close.
 */
export class Scope {
  #releases: Array<{ name: string; release: () => unknown }> = [];
  #closing: Promise<void> | undefined;

  defer(name: string, release: () => unknown): void {
    if (this.#closing) throw new Error(`scope is closing; cannot acquire ${name}`);
    this.#releases.push({ name, release });
  }

  close(): Promise<void> {
    this.#closing ??= (async () => {
      let first: unknown;
      for (const { release } of this.#releases.reverse()) {
        try {
          await release();
        } catch (error) {
          first ??= error;
        }
      }
      if (first !== undefined) throw first;
    })();
    return this.#closing;
  }
}
