import { context, type Link, SpanStatusCode, trace } from '@opentelemetry/api';
import { oneLine } from '../base/errors.ts';
import { contextFrom } from '../base/telemetry.ts';
import type { Action } from '../events/actions.ts';
import type { RoundRow } from '../store/rounds.ts';
import { tracesOfRound } from '../store/status.ts';
import type { CycleParts } from './parts.ts';
import { sendNotification } from './policy/notify.ts';

const LINKS_AT_MOST = 32;

/**
 * What follows a round: its log line, its notifications, and its span. The span goes on with the trace of the newest event it learned
 * from and links to others, so one trace runs from a feedback event to the version that learned it.
 */
export async function afterRound(parts: CycleParts, round: RoundRow): Promise<void> {
  const { log, settings, db } = parts;
  const candidate = round.candidate === null ? null : `${settings.name}@${round.candidate}`;
  log.info(`round ${round.id}: ${round.state}`, {
    candidate: candidate ?? 'none',
    epsilon: round.epsilon,
    ...(round.error === null ? {} : { error: round.error }),
  });
  await notifyAll(parts, round.actions as Action[], {
    round: round.id,
    state: round.state,
    reason: round.reason,
    candidate,
    epsilon: round.epsilon,
    verdict: round.verdict,
  });
  traceRound(round, candidate, await tracesOfRound(db, round.id, LINKS_AT_MOST));
}

export async function notifyAll(parts: CycleParts, actions: readonly Action[], body: unknown): Promise<void> {
  for (const action of actions) {
    if (action.do !== 'notify') continue;
    try {
      await sendNotification(action.url, body);
    } catch (error) {
      parts.log.warn('a notification was not delivered', { reason: oneLine(error) });
    }
  }
}

function traceRound(round: RoundRow, candidate: string | null, parents: readonly string[]): void {
  const [newest, ...others] = parents;
  const links = others.flatMap((parent): Link[] => {
    const linked = trace.getSpanContext(contextFrom(parent));
    return linked === undefined ? [] : [{ context: linked }];
  });
  const span = trace.getTracer('learnd').startSpan(
    'learnd.round',
    {
      startTime: round.started_at,
      links,
      attributes: {
        'learnd.round': round.id,
        'learnd.round.state': round.state,
        'learnd.epsilon': round.epsilon,
        ...(candidate === null ? {} : { 'learnd.version': candidate }),
      },
    },
    newest === undefined ? context.active() : contextFrom(newest),
  );
  if (round.state === 'failed') span.setStatus({ code: SpanStatusCode.ERROR, message: 'round failed' });
  span.end();
}
