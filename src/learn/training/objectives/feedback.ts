/** What people said, as units of examples: corrections, preferences, ratings and labels. */
import type { ChatMessage } from '../../model/chat.ts';
import type { Example } from '../../model/engine/units.ts';
import type { Checkpoint } from '../../model/types.ts';
import { LabelItems } from './classify.ts';
import { answerExamples, answerTokens, promptTokens } from './conversation.ts';
import { type DpoSettings, preferenceItem, ratingItem, type SimpoSettings } from './losses.ts';
import { type Item, type Objective, objectiveOf } from './objective.ts';
import { meanItem, variantUnits } from './variants.ts';

/** Other wordings of the text, or of the last thing that the user said, which together count as one with it (`rowVariants`). */
type Varied = { readonly variants?: readonly string[] };
type Prompt = { readonly messages: readonly ChatMessage[] };

/** One row of feedback, whose gradient is clipped with the rest of its unit. */
export type FeedbackRow = { readonly unit: string } & (
  | ({ readonly kind: 'correction'; readonly ideal: string } & Prompt & Varied)
  | ({ readonly kind: 'preference'; readonly chosen: string; readonly rejected: string } & Prompt)
  /** `whole` (default): the answer ended by itself; else its end is no example of where to stop. */
  | ({ readonly kind: 'rating'; readonly answer: string; readonly whole?: boolean; readonly liked: boolean } & Prompt)
  | ({ readonly kind: 'label'; readonly text: string; readonly label: string; readonly region?: string } & Varied)
);

export type FeedbackObjective =
  /** `mean`: of examples with variants (`variantUnits`); default: each example alike, as under privacy. */
  | { readonly kind: 'instruct'; readonly mean?: 'examples' | 'tokens' }
  /** Preferences by DPO or SimPO; ratings by KTO with z0 = 0, both in one unit where someone gave both. */
  | { readonly kind: 'preference'; readonly pairs?: DpoSettings | SimpoSettings; readonly ratingBeta?: number }
  | { readonly kind: 'classify'; readonly labels: readonly string[] };

export interface FeedbackUnits {
  /** In the order in which units first come (a plan draws them by index). */
  readonly units: readonly (readonly Example[])[];
  /** Absent for `instruct` without variants: the ordinary loss on masked examples. */
  readonly objective?: Objective;
  /** For `classify`: the label of each item. */
  readonly labelOf: ReadonlyMap<Item, string>;
  /** And its region, where the row says. */
  readonly regionOf: ReadonlyMap<Item, string>;
}

/**
 * A unit keeps its place even when nothing of it can be trained on (an empty answer), so that whether it can decides nothing about
 * others. Rows of a kind that the objective does not learn from are left out.
 */
export function feedbackUnits(
  rows: readonly FeedbackRow[],
  objective: FeedbackObjective,
  model: { checkpoint: Pick<Checkpoint, 'chatTemplate' | 'tokenizer' | 'path' | 'config'>; sequence: number },
): FeedbackUnits {
  const { checkpoint, sequence } = model;
  const byUnit = new Map<string, FeedbackRow[]>();
  for (const row of rows) {
    const before = byUnit.get(row.unit);
    if (before) before.push(row);
    else byUnit.set(row.unit, [row]);
  }
  const answers = (messages: readonly ChatMessage[], texts: readonly string[], whole = true) =>
    answerExamples(
      promptTokens(checkpoint, messages),
      texts.map(text => (text.trim() === '' ? [] : answerTokens(checkpoint, text, whole))),
      sequence,
    );
  const labelOf = new Map<Item, string>();
  const regionOf = new Map<Item, string>();
  if (objective.kind === 'instruct') {
    const groups = [...byUnit.values()].map(of =>
      of.map(row =>
        row.kind === 'correction' ? wordings(row).flatMap(messages => answers(messages, [row.ideal]) ?? []) : [],
      ),
    );
    if (groups.every(unit => unit.every(group => group.length <= 1)))
      return { units: groups.map(unit => unit.flat()), labelOf, regionOf };
    return { ...variantUnits(groups, objective.mean ?? 'examples'), labelOf, regionOf };
  }
  const items =
    objective.kind === 'classify'
      ? labelItems(
          new LabelItems(objective.labels, checkpoint.tokenizer, checkpoint.config.contextLength),
          labelOf,
          regionOf,
        )
      : (row: FeedbackRow): Item[] => {
          if (row.kind === 'preference') {
            const pair = answers(row.messages, [row.chosen, row.rejected]);
            return pair === undefined ? [] : [preferenceItem(pair[0]!, pair[1]!, objective.pairs)];
          }
          if (row.kind !== 'rating') return [];
          const answer = answers(row.messages, [row.answer], row.whole);
          return answer === undefined ? [] : [ratingItem(answer[0]!, row.liked, objective.ratingBeta)];
        };
  return {
    ...objectiveOf(
      objective.kind,
      [...byUnit.values()].map(of => of.flatMap(items)),
    ),
    labelOf,
    regionOf,
  };
}

/** The prompt as it was, and with other words in place of the last thing that the user said. */
function wordings({ messages, variants = [] }: Prompt & Varied): (readonly ChatMessage[])[] {
  const at = messages.findLastIndex(({ role }) => role === 'user');
  return [messages, ...variants.map(content => messages.map((m, i) => (i === at ? { ...m, content } : m)))];
}

const labelItems =
  (from: LabelItems, labelOf: Map<Item, string>, regionOf: Map<Item, string>) =>
  (row: FeedbackRow): Item[] => {
    if (row.kind !== 'label' || !from.labels.includes(row.label)) return [];
    const item = meanItem([row.text, ...(row.variants ?? [])].map(text => from.item(text, row.label)));
    labelOf.set(item, row.label);
    if (row.region !== undefined) regionOf.set(item, row.region);
    return [item];
  };
