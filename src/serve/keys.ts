/** Bearer keys: who may do what. Looked up by their sha256 and remembered for a moment, so that answering outlives a stopped store. */
import { createHash } from 'node:crypto';
import { type Clock, systemClock } from '../base/clock.ts';
import { LearndError } from '../base/errors.ts';
import type { Scope, ServePorts } from './ports.ts';

export interface Key {
  readonly scopes: readonly Scope[];
  allows(scope: Scope): boolean;
}

/** A key found once is taken as valid for so long without asking; revoking one takes effect within it. */
const FRESH_MS = 10_000;
/** While the store cannot be asked, a key found in this time is still taken. */
const STALE_MS = 3_600_000;
const REMEMBERED = 1_000;

export class Keys {
  readonly #find: ServePorts['keys']['find'];
  readonly #clock: Clock;
  readonly #known = new Map<string, { key: Key; at: number }>();

  constructor(find: ServePorts['keys']['find'], clock: Clock = systemClock) {
    this.#find = find;
    this.#clock = clock;
  }

  /** @throws 'unauthorized' without a key or with a wrong one, 'forbidden' out of scope, 'not_ready' when it cannot be checked. */
  async check(authorization: string | undefined, scope: Scope): Promise<Key> {
    const token = /^Bearer +([^\s]+) *$/i.exec(authorization ?? '')?.[1];
    if (token === undefined) {
      throw new LearndError('unauthorized', 'a key is needed', { hint: 'Send Authorization: Bearer KEY.' });
    }
    const key = await this.#lookUp(createHash('sha256').update(token).digest('hex'));
    if (key === undefined) throw new LearndError('unauthorized', 'unknown key', { data: { code: 'invalid_api_key' } });
    if (!key.allows(scope)) {
      throw new LearndError('forbidden', `this key has no scope ${scope}; it has: ${key.scopes.join(', ')}`);
    }
    return key;
  }

  async #lookUp(hash: string): Promise<Key | undefined> {
    const known = this.#known.get(hash);
    const age = known === undefined ? Number.POSITIVE_INFINITY : this.#clock.now() - known.at;
    if (known !== undefined && age < FRESH_MS) return known.key;
    let found: { readonly scopes: readonly Scope[] } | undefined;
    try {
      found = await this.#find(hash);
    } catch (cause) {
      if (known !== undefined && age < STALE_MS) return known.key;
      throw new LearndError('not_ready', 'the key cannot be checked now', { cause });
    }
    this.#known.delete(hash);
    if (found === undefined) return undefined;
    const scopes = [...found.scopes];
    const key: Key = { scopes, allows: scope => scopes.includes(scope) || scopes.includes('admin') };
    this.#known.set(hash, { key, at: this.#clock.now() });
    if (this.#known.size > REMEMBERED) this.#known.delete(this.#known.keys().next().value!);
    return key;
  }
}
