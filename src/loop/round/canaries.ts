/**
 * The audit inside private rounds. A few canary users, at most 2% of the expected ones, are put into the view of each private
 * training; each is a unit like any other, drawn, clipped and charged alike. Whether one takes part at all is a fair coin from the
 * training's sealed seed. Afterwards each is guessed from the candidate alone, and the guesses of all rounds together bound epsilon
 * from below (arXiv 2305.08846). So few canaries can show little (`largest`), so this only refutes gross faults: what finds the
 * others is the audit at full power, on public data, before a release.
 */
import type { VersionManifest } from '../../learn/model/version.ts';
import { guessedEpsilon, largestBound } from '../../learn/privacy/audit/bounds.ts';
import { exposure, extrapolatedExposure } from '../../learn/privacy/audit/exposure.ts';
import { type SecureStream, streamFor } from '../../learn/privacy/noise.ts';
import type { FeedbackRow } from '../../learn/training/objectives/feedback.ts';
import { PUBLIC_SENTENCES } from '../../learn/training/public-text.ts';
import type { Queryable } from '../../store/database.ts';
import { getFact, setFact } from '../../store/facts.ts';
import type { CanaryRecord } from './canary-record.ts';
import { headFiles, languageFiles } from './files.ts';
import type { RoundPorts } from './ports.ts';
import type { Context } from './train-parts.ts';
import { type FeedbackTraining, noisesOf, type Training } from './work.ts';

/** Canary users are at most this share of the expected users. */
const MOST = 0.02;
/** Texts made alike that never take part: what a score is held against. They are no users and cost nothing. */
const REFERENCES = 24;
/** A canary whose score is this many standard deviations above the references' is guessed to have taken part, any other not. */
const GUESS_ABOVE = 2;
const WORDS = 10;
const QUESTION = 'What should I know?';
/** Chance that publishing is ever frozen wrongly, over all rounds together. */
const SIGNIFICANCE = 0.05;

interface Made {
  readonly text: string;
  /** Where labels are learned. */
  readonly label: string;
  /** Where an answer is held against another. */
  readonly other: string;
}

export interface Canaries {
  readonly users: readonly (Made & { readonly unit: string; readonly in: boolean })[];
  readonly references: readonly Made[];
}

/** From public constants and the sealed seed alone: a retry makes the same ones. None without noise. */
export function canariesOf(
  { settings }: Pick<RoundPorts, 'settings'>,
  training: Training,
  labels: readonly string[] = [''],
): Canaries | undefined {
  const { expected_users, canaries } = settings.privacy;
  const count = Math.min(canaries, Math.floor(MOST * expected_users));
  const seed = noisesOf(training)[0]?.seed;
  if (count < 1 || seed === undefined) return undefined;
  const stream = streamFor(Buffer.from(seed, 'hex'), 'canaries');
  const made = (): Made => ({
    text: randomText(stream),
    label: labels[stream.below(labels.length)]!,
    other: randomText(stream),
  });
  return {
    users: Array.from({ length: count }, (_, i) => ({ ...made(), unit: `canary:${i}`, in: stream.uniform() < 0.5 })),
    references: Array.from({ length: REFERENCES }, made),
  };
}

const VOCABULARY = [...new Set(PUBLIC_SENTENCES.flatMap(sentence => sentence.toLowerCase().match(/[a-z]{4,}/g) ?? []))];

/** Words in an order that nobody would write: what a model does not know unless it was told. */
const randomText = (stream: SecureStream): string =>
  Array.from({ length: WORDS }, () => VOCABULARY[stream.below(VOCABULARY.length)]!).join(' ');

/** Rows of those that take part, to stand among the users' own. */
export const takingPart = (canaries: Canaries | undefined) =>
  (canaries?.users ?? []).filter(user => user.in).map(({ unit, text, label }) => ({ unit, text, label }));

/** The same as what people said: answers nobody would give, to a question that anybody might ask. */
export function saidByThose(canaries: Canaries | undefined, objective: FeedbackTraining['objective']): FeedbackRow[] {
  const messages = [{ role: 'user' as const, content: QUESTION }];
  const said = ({ unit, text, label, other }: Canaries['users'][number]): FeedbackRow => {
    if (objective === 'classify') return { unit, kind: 'label', text, label };
    if (objective === 'instruct') return { unit, kind: 'correction', messages, ideal: text };
    return { unit, kind: 'preference', messages, chosen: text, rejected: other };
  };
  return (canaries?.users ?? []).filter(user => user.in).map(said);
}

/** Of a training on feedback: by the label, by the answer, or by the answer that was preferred over the other. */
export async function saidRecords(
  context: Pick<Context, 'ports' | 'worker' | 'call'>,
  canaries: Canaries | undefined,
  { objective, task, labels = [] }: FeedbackTraining,
  before: VersionManifest,
  after: VersionManifest,
): Promise<CanaryRecord[]> {
  if (canaries === undefined) return [];
  if (objective === 'classify')
    return await labelRecords(context, 'feedback', canaries, { name: task!, labels }, after);
  const chosen = await gains(context, canaries, 'text', before, after);
  if (objective === 'instruct') return records('feedback', canaries, chosen);
  const rejected = await gains(context, canaries, 'other', before, after);
  return records(
    'feedback',
    canaries,
    chosen.map((gain, i) => gain - rejected[i]!),
  );
}

/** Score: how much likelier the text has become, in nats. */
export async function textRecords(
  context: Pick<Context, 'ports' | 'worker' | 'call'>,
  kind: Training['kind'],
  canaries: Canaries | undefined,
  before: VersionManifest,
  after: VersionManifest,
): Promise<CanaryRecord[]> {
  if (canaries === undefined) return [];
  return records(kind, canaries, await gains(context, canaries, 'text', before, after));
}

async function gains(
  { ports, worker, call }: Pick<Context, 'ports' | 'worker' | 'call'>,
  canaries: Canaries,
  which: 'text' | 'other',
  before: VersionManifest,
  after: VersionManifest,
): Promise<number[]> {
  const texts = [...canaries.users, ...canaries.references].map(made => made[which]);
  const nll = async (manifest: VersionManifest): Promise<number[]> => {
    const files = await languageFiles(ports.artifacts, manifest);
    return (await worker.perplexity(files, texts, { signal: call.signal })).map(score => score.nll);
  };
  const now = await nll(after);
  const then = await nll(before);
  return then.map((value, i) => value - now[i]!);
}

/** Score: log-odds of the canary's label, by the head or, without one, by the language model. */
export async function labelRecords(
  { ports, worker, call }: Pick<Context, 'ports' | 'worker' | 'call'>,
  kind: Training['kind'],
  canaries: Canaries | undefined,
  task: { readonly name: string; readonly labels: readonly string[] },
  after: VersionManifest,
): Promise<CanaryRecord[]> {
  if (canaries === undefined) return [];
  const all = [...canaries.users, ...canaries.references];
  const files = {
    ...(await languageFiles(ports.artifacts, after)),
    heads: await headFiles(ports.artifacts, after),
  };
  const texts = all.map(made => made.text);
  const found = await worker.classify(files, task.name, task.labels, texts, { signal: call.signal });
  const scores = found.map(({ scores: of }, i) => {
    const p = Math.min(1 - 1e-12, Math.max(1e-12, of[all[i]!.label] ?? 0));
    return Math.log(p / (1 - p));
  });
  return records(kind, canaries, scores);
}

function records(kind: Training['kind'], { users, references }: Canaries, scores: readonly number[]): CanaryRecord[] {
  const held = scores.slice(users.length);
  const mean = held.reduce((sum, x) => sum + x, 0) / references.length;
  const deviation = Math.sqrt(held.reduce((sum, x) => sum + (x - mean) ** 2, 0) / (references.length - 1));
  // Of losses: a high score is a low one.
  const [losses, others] = [scores.map(score => -score), held.map(score => -score)];
  const bits =
    deviation > 1e-9 ? extrapolatedExposure(others, losses.slice(0, users.length), { few: true }) : undefined;
  return users.map((user, i) => ({
    ...{ kind, in: user.in, score: (scores[i]! - mean) / Math.max(deviation, 1e-9) },
    ...(bits && { exposure: { rank: exposure(others, losses[i]!), extrapolated: bits[i]! } }),
  }));
}

interface Entry {
  readonly round: number;
  /** The round's own: a canary takes part in one round, so this is what was promised to it. */
  readonly epsilon: number;
  readonly records: readonly CanaryRecord[];
}

const FACT = 'canaries';

/** In the transaction that settles the round. A round that is written again replaces what it wrote before. */
export async function addEvidence(tx: Queryable, entry: Entry): Promise<void> {
  if (entry.records.length === 0) return;
  const known = (await getFact<Entry[]>(tx, FACT)) ?? [];
  await setFact(tx, FACT, [...known.filter(({ round }) => round !== entry.round), entry]);
}

/** What the canaries of the rounds show together. */
export interface CanaryAudit {
  /** Looked at: the largest power of two that there have been. */
  readonly rounds: number;
  readonly canaries: number;
  readonly right: number;
  /** Lower bound on epsilon. */
  readonly bound: number;
  /** The most that so many canaries could show at all: a claim above it cannot fail. */
  readonly largest: number;
  /** The largest epsilon that one of the rounds claims. */
  readonly claim: number;
  readonly frozen: boolean;
  /** Bits, medians over those that took part and those that did not (chance: 1); null: none. It refutes nothing, it shows a trend. */
  readonly exposure: { readonly in: Exposures | null; readonly out: Exposures | null };
}

type Exposures = NonNullable<CanaryRecord['exposure']>;

const guessedRight = ({ in: was, score }: CanaryRecord): boolean => score >= GUESS_ABOVE === was;

/** undefined before the first round with canaries. */
export async function canaryAudit(db: Queryable, delta: number): Promise<CanaryAudit | undefined> {
  const entries = (await getFact<Entry[]>(db, FACT)) ?? [];
  return entries.length === 0 ? undefined : auditOf(entries, delta);
}

/**
 * Looks at the first 1, 2, 4, 8 ... rounds, as many as there have been: the k-th look gets 6 / (pi k)^2 of the significance, so that
 * together they stay below it however many rounds there will be. (A look at every round would leave each so little that 2 m delta,
 * which the bound must add for m canaries, is more.) What one look has frozen stays so.
 */
export function auditOf(entries: readonly Entry[], delta: number): CanaryAudit {
  let last: CanaryAudit | undefined;
  for (let look = 1; 2 ** (look - 1) <= entries.length; look++) {
    const seen = lookAt(entries.slice(0, 2 ** (look - 1)), { look, delta });
    last = { ...seen, frozen: seen.frozen || last?.frozen === true };
  }
  return last!;
}

function lookAt(entries: readonly Entry[], { look, delta }: { look: number; delta: number }): CanaryAudit {
  const all = entries.flatMap(entry => entry.records);
  const right = all.filter(guessedRight).length;
  const significance = (SIGNIFICANCE * 6) / (Math.PI * look) ** 2;
  const bound = guessedEpsilon(all.length, right, { significance, delta });
  const claim = Math.max(...entries.map(entry => entry.epsilon));
  return {
    rounds: entries.length,
    canaries: all.length,
    right,
    bound,
    largest: largestBound(all.length, { significance, delta }),
    claim,
    frozen: bound > claim,
    exposure: { in: medianExposure(all.filter(of => of.in)), out: medianExposure(all.filter(of => !of.in)) },
  };
}

function medianExposure(records: readonly CanaryRecord[]): Exposures | null {
  const known = records.flatMap(({ exposure: of }) => (of ? [of] : []));
  if (known.length === 0) return null;
  const median = (of: (e: Exposures) => number): number => {
    const sorted = known.map(of).sort((a, b) => a - b);
    const middle = sorted.length / 2;
    return (sorted[Math.ceil(middle) - 1]! + sorted[Math.floor(middle)]!) / 2;
  };
  return { rank: median(({ rank }) => rank), extrapolated: median(({ extrapolated }) => extrapolated) };
}

/** As a line of the gate. */
export function auditLine(audit: CanaryAudit) {
  const { canaries, rounds, right, bound, largest, claim, frozen } = audit;
  const said =
    `${right} of ${canaries} canaries of ${rounds} rounds guessed right: epsilon is at least ${bound.toFixed(3)}; ` +
    `${claim.toFixed(3)} is claimed, and so many canaries can show at most ${largest.toFixed(3)}`;
  return {
    expression: 'the canary audit',
    result: frozen ? ('fail' as const) : ('pass' as const),
    reason: frozen
      ? `publishing is frozen: the guarantee does not hold. ${said}. Run the privacy audit of the tests before anything is published`
      : said,
    values: { bound, claim, largest },
  };
}
