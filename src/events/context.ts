import { z } from 'zod';
import type { Settings } from '../base/settings.ts';
import { identifier } from './text.ts';

/** Sizes that bound every field (settings `limits`). */
export type Limits = Pick<Settings['limits'], 'event_bytes' | 'label_chars' | 'text_bytes'>;

/** May stand in the data of every type: whom it is from, where, and what it may be used for. */
export const context = () => ({
  user: identifier(256)
    .optional()
    .describe('Pseudonym of the person: the unit of privacy. Without it the event is a unit of its own'),
  region: identifier(64).optional().describe('Where the person is, as the policy constraints name it'),
  consent: z
    .array(identifier(64), { error: 'must be a list of purposes' })
    .max(32, { error: 'holds more than 32 purposes' })
    .optional()
    .describe('Purposes the person agreed to, e.g. "training"'),
});

export interface Context {
  user?: string | undefined;
  region?: string | undefined;
  consent?: string[] | undefined;
}
