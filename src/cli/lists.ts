import type { DaemonClient } from './client.ts';
import { short, table } from './frame.ts';

/** `rounds`, `versions`, `decisions`: arrays, newest first, as the daemon gives them. */

export interface RoundItem {
  id: number;
  state: string;
  reason: string;
  actions: unknown[];
  parent: string | null;
  candidate: string | null;
  verdict: unknown;
  epsilon: number;
  started_at: string;
  finished_at: string | null;
  error: string | null;
  /** What was decided on the way, and why. */
  notes: string[];
}

export interface VersionItem {
  version: string;
  sha256: string;
  parent: string | null;
  created_at: string;
  epsilon: number;
  evaluation: Record<string, unknown> | null;
}

export interface DecisionItem {
  id: number;
  at: string;
  outcome: string;
  rule: string | null;
  reason: string;
  round: number | null;
}

export const rounds = async (client: DaemonClient): Promise<RoundItem[]> =>
  (await client.get('/v1/admin/rounds')) as RoundItem[];
export const versions = async (client: DaemonClient): Promise<VersionItem[]> =>
  (await client.get('/v1/admin/versions')) as VersionItem[];

export const decisions = async (client: DaemonClient): Promise<DecisionItem[]> =>
  (await client.get('/v1/admin/decisions')) as DecisionItem[];

const kinds = (actions: unknown[]): string => actions.map(action => (action as { do: string }).do).join('+');

/** Rounds whose notes are printed below the table, newest first. */
const NOTED = 3;

export function humanRounds(items: RoundItem[]): string {
  if (items.length === 0) return 'no rounds yet';
  const rows = table([
    ['id', 'state', 'actions', 'parent', 'candidate', 'epsilon', 'started', 'reason'],
    ...items.map(r => [
      r.id,
      r.state,
      kinds(r.actions),
      r.parent,
      r.candidate,
      short(r.epsilon),
      r.started_at,
      r.reason,
    ]),
  ]);
  const said = items.slice(0, NOTED).flatMap(({ id, notes, error }) => {
    const lines = [...new Set([...notes, ...(error === null ? [] : [error])])];
    return lines.map(line => `round ${id}: ${line}`);
  });
  return [rows, ...(said.length > 0 ? ['', ...said] : [])].join('\n');
}

export const humanVersions = (items: VersionItem[]): string =>
  table([
    ['version', 'parent', 'epsilon', 'f1', 'perplexity', 'size MB', 'tokens/s', 'created', 'sha256'],
    ...items.map(v => [
      v.version,
      v.parent,
      short(v.epsilon),
      short(v.evaluation?.f1),
      short(v.evaluation?.perplexity),
      short(v.evaluation?.size_mb),
      short(v.evaluation?.tokens_per_second),
      v.created_at,
      v.sha256.slice(0, 12),
    ]),
  ]);

export const humanDecisions = (items: DecisionItem[]): string =>
  items.length === 0
    ? 'no decisions yet'
    : table([
        ['id', 'at', 'outcome', 'rule', 'round', 'reason'],
        ...items.map(d => [d.id, d.at, d.outcome, d.rule, d.round, d.reason]),
      ]);
