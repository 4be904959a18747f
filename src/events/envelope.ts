import { z } from 'zod';
import { identifier, timestamp } from './text.ts';

/**
 * The CloudEvents 1.0 envelope (JSON event format). Attributes that are not named here are extension attributes: the standard
 * lets any producer or broker add them, so they are allowed and not stored. `data` is where unknown fields are refused.
 */
export const envelope = z.looseObject({
  specversion: z.literal('1.0', { error: 'must be "1.0"' }).optional(),
  id: identifier(256)
    .optional()
    .describe('With source the idempotency key; derived from the content where it is missing'),
  // With 256 and 512 characters of at most 3 bytes the key stays below the 2,704 bytes of a PostgreSQL index row.
  source: identifier(512).optional().describe('Who sends it, a URI reference'),
  type: identifier(128),
  time: timestamp().optional(),
  datacontenttype: z
    .string({ error: 'must be a string' })
    .regex(/^application\/([\w.-]+\+)?json\s*(;.*)?$/i, { error: 'must be application/json' })
    .optional(),
  dataschema: identifier(1024).optional(),
  subject: identifier(1024).optional(),
  // The W3C recommendation has a malformed trace context ignored, not the message refused.
  traceparent: z
    .string()
    .regex(/^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$/)
    .optional()
    .catch(undefined),
  data: z.record(z.string(), z.unknown(), {
    error: issue => (issue.input === undefined ? 'is required' : 'must be an object'),
  }),
});

export type Envelope = z.infer<typeof envelope>;
