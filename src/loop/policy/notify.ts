import { LearndError } from '../../base/errors.ts';

/**
 * The action `notify`: one POST of a JSON document. Not tried again: a receiver that must not miss anything reads the
 * announcements instead. Redirects are not followed.
 * @throws LearndError('dependency') when there is no 2xx answer within `timeoutMs`.
 */
export async function sendNotification(
  url: string,
  body: unknown,
  options: { timeoutMs?: number; signal?: AbortSignal } = {},
): Promise<void> {
  const timeout = AbortSignal.timeout(options.timeoutMs ?? 10_000);
  let status: number;
  try {
    const response = await fetch(url, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'user-agent': 'learnd' },
      body: JSON.stringify(body),
      redirect: 'manual',
      signal: options.signal ? AbortSignal.any([timeout, options.signal]) : timeout,
    });
    status = response.status;
    await response.body?.cancel();
  } catch (cause) {
    const why = timeout.aborted
      ? 'no answer in time'
      : (((cause as Error).cause as Error | undefined)?.message ?? (cause as Error).message);
    throw new LearndError('dependency', `notify ${url}: ${why}`, { cause });
  }
  if (status < 200 || status > 299) throw new LearndError('dependency', `notify ${url}: answered ${status}`);
}
