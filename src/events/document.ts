import { z } from 'zod';
import { context, type Limits } from './context.ts';
import { identifier, text, timestamp } from './text.ts';

/** `learnd.document`: new text to watch the model's perplexity on, and to learn from. */
export const document = (limits: Limits) =>
  z.strictObject({
    text: text(limits.text_bytes),
    source: identifier(256).describe(
      'Where it comes from; one declared public in the settings may be learned without noise',
    ),
    title: identifier(1024).optional(),
    license: identifier(256).optional(),
    published_at: timestamp(true).optional(),
    ...context(),
  });

export type Document = z.infer<ReturnType<typeof document>>;
