import type { Training } from './work.ts';

/** One canary after its round. Stored with the settlement, when the seed and with it the coin's origin is gone. */
export interface CanaryRecord {
  readonly kind: Training['kind'];
  readonly in: boolean;
  /** Standard deviations above the references. */
  readonly score: number;
  /** Bits, by rank among the references and by the distribution fitted to them; absent where they are all the same. */
  readonly exposure?: { readonly rank: number; readonly extrapolated: number };
}
