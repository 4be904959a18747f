/**
 * Tokens to text while they arrive. A character may be spread over several tokens (byte-level BPE), and the end of what has been
 * generated may be the beginning of a stop string: both are held back until they are decided.
 */
export class StreamingText {
  readonly #decode: (tokens: readonly number[], last: readonly number[]) => string;
  readonly #stop: readonly string[];
  #pending: number[] = [];
  #last: number[] = [];
  #held = '';
  #stopped = false;

  /** `decode` turns tokens into text given the few tokens before them; incomplete UTF-8 shows as U+FFFD. */
  constructor(decode: (tokens: readonly number[], last: readonly number[]) => string, stop: readonly string[] = []) {
    this.#decode = decode;
    this.#stop = stop.filter(s => s !== '');
  }

  /** A stop string was met: nothing more comes out. */
  get stopped(): boolean {
    return this.#stopped;
  }

  /** The text that is now certain; may be empty. */
  push(token: number): string {
    if (this.#stopped) return '';
    this.#pending.push(token);
    const text = this.#decode(this.#pending, this.#last);
    // A character is at most 4 bytes, so at most 4 tokens; longer than that the bytes are simply invalid and are shown as such.
    if (text.endsWith('\uFFFD') && this.#pending.length < 4) return '';
    this.#last = [...this.#last, ...this.#pending].slice(-4);
    this.#pending = [];
    return this.#release(text);
  }

  /** What was held back, at the end. */
  end(): string {
    if (this.#stopped) return '';
    const rest = this.#pending.length === 0 ? '' : this.#decode(this.#pending, this.#last);
    this.#pending = [];
    const out = this.#release(rest);
    const held = this.#stopped ? '' : this.#held;
    this.#held = '';
    return out + held;
  }

  #release(more: string): string {
    const text = this.#held + more;
    let cut = -1;
    for (const stop of this.#stop) {
      const at = text.indexOf(stop);
      if (at >= 0 && (cut < 0 || at < cut)) cut = at;
    }
    if (cut >= 0) {
      this.#stopped = true;
      this.#held = '';
      return text.slice(0, cut);
    }
    const keep = this.#stop.reduce((most, stop) => Math.max(most, overlap(text, stop)), 0);
    this.#held = text.slice(text.length - keep);
    return text.slice(0, text.length - keep);
  }
}

/** Length of the longest end of `text` that is a proper beginning of `stop`. */
function overlap(text: string, stop: string): number {
  for (let n = Math.min(text.length, stop.length - 1); n > 0; n--) {
    if (text.endsWith(stop.slice(0, n))) return n;
  }
  return 0;
}
