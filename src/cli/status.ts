import type { DaemonClient } from './client.ts';
import { short, table } from './frame.ts';

export interface Status {
  readonly champion: string;
  readonly signals: Record<string, unknown>;
  readonly alarms: { signal: string; value: number | null; reference: number | null; raised_at: string }[];
  readonly budget: { epsilon_spent: number; epsilon_limit: number; delta: number };
  readonly round: null | { id: number; state: string; reason: string; progress?: Record<string, unknown> | null };
  readonly lag: Record<string, unknown>;
  readonly events: { feedback: number; documents: number; dead: number };
}

export const run = async (client: DaemonClient): Promise<Status> => (await client.get('/v1/admin/status')) as Status;

export function human(s: Status): string {
  const rows = Object.entries(s.signals)
    .filter(([, value]) => value !== null)
    .map(([name, value]) => [`  ${name}`, short(value)]);
  return [
    `champion  ${s.champion}`,
    `budget    epsilon ${short(s.budget.epsilon_spent)} of ${short(s.budget.epsilon_limit)} spent, delta ${s.budget.delta}`,
    `events    ${s.events.feedback} feedback, ${s.events.documents} documents, ${s.events.dead} dead letters`,
    `alarms    ${s.alarms.length === 0 ? 'none' : s.alarms.map(a => `${a.signal} since ${a.raised_at} (${short(a.value)}, reference ${short(a.reference)})`).join('; ')}`,
    `round     ${s.round === null ? 'none running' : `${s.round.id} ${s.round.state}: ${s.round.reason}${s.round.progress ? ` ${JSON.stringify(s.round.progress)}` : ''}`}`,
    'signals',
    table(rows),
  ].join('\n');
}
