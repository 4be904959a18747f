import type { IncomingMessage } from 'node:http';
import { invalid, LearndError } from '../base/errors.ts';

/** The body in memory, at most `limit` bytes of it ever. @throws 'too_large' as soon as that is known, 'canceled' when it breaks off. */
export function readBody(request: IncomingMessage, limit: number): Promise<Buffer> {
  const tooLarge = () =>
    new LearndError('too_large', `the body is over ${limit} bytes`, { hint: 'Send several smaller requests.' });
  if (Number(request.headers['content-length'] ?? 0) > limit) return Promise.reject(tooLarge());
  return new Promise((resolve, reject) => {
    let chunks: Buffer[] = [];
    let size = 0;
    const take = (chunk: Buffer) => {
      size += chunk.length;
      if (size > limit) {
        chunks = [];
        request.off('data', take);
        reject(tooLarge());
        return;
      }
      chunks.push(chunk);
    };
    request.on('data', take);
    request.once('end', () => resolve(Buffer.concat(chunks)));
    request.once('error', cause => reject(new LearndError('canceled', 'the request broke off', { cause })));
    request.once('close', () => reject(new LearndError('canceled', 'the request broke off')));
  });
}

const utf8 = new TextDecoder('utf-8', { fatal: true });

/** @throws 'invalid' saying what is wrong and where, without quoting the text. */
export function parseJson(bytes: Uint8Array): unknown {
  let text: string;
  try {
    text = utf8.decode(bytes);
  } catch (cause) {
    throw invalid('', 'the body is not UTF-8', { cause });
  }
  if (text.trim() === '') throw invalid('', 'the body is empty; JSON is expected');
  try {
    return JSON.parse(text);
  } catch (cause) {
    const at = /position (\d+)/.exec((cause as Error).message)?.[1];
    throw invalid('', `the body is not valid JSON${at === undefined ? '' : ` (at character ${at})`}`, { cause });
  }
}
