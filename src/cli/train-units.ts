import { invalid } from '../base/errors.ts';
import type { OpenedModel } from '../learn/model/open.ts';
import { groupsOf } from '../learn/training/examples.ts';
import { feedbackUnits, variantUnits } from '../learn/training/objectives/index.ts';
import { documentVariants, rowVariants } from '../learn/training/variants.ts';
import { readFeedbackRows, readTrainRows } from './train-data.ts';
import { publicLabels } from './train-labels.ts';
import { type TrainOptions, variantsOf } from './train-options.ts';
import type { TextData } from './train-plan.ts';

/** Each costs what its example does. */
const VARIANTS = 2;

/**
 * The file's rows as privacy units of examples, for the objective asked for, with variants where `--augment` asks for them (from
 * `seed`: an interrupted training has the same ones again). @throws LearndError('invalid')
 */
export async function readUnits(
  options: TrainOptions,
  checkpoint: OpenedModel,
  sequence: number,
  seed: Uint8Array,
): Promise<TextData> {
  const { file, objective = 'next_token' } = options;
  const nothing = () => invalid('file', `${file} holds nothing to train on: no text of two tokens or more`);
  const count = variantsOf(options, VARIANTS);
  const variation = count === undefined ? undefined : { seed: Buffer.from(seed).toString('hex'), count };
  const mean = options.epsilon === 'none' ? 'tokens' : 'examples';
  if (objective === 'next_token') {
    const rows = readTrainRows(file, options);
    const texts = rows.map(({ text }) => text);
    const variants = variation && (await documentVariants(texts, variation));
    const groups = groupsOf({ documents: rows, sequence }, checkpoint.tokenizer, variants);
    if (groups.every(unit => unit.length === 0)) throw nothing();
    const units = groups.map(of => of.map(([example]) => example!));
    if (variation === undefined) return { units };
    const varied = variantUnits(groups, mean);
    return { units: varied.units, objective: varied.objective, plain: units };
  }
  const rows = readFeedbackRows(file, objective, options);
  const kind =
    objective === 'classify'
      ? ({
          kind: objective,
          labels: publicLabels(
            options,
            rows.flatMap(row => (row.kind === 'label' ? [row.label] : [])),
          ),
        } as const)
      : objective === 'instruct'
        ? ({ kind: objective, mean } as const)
        : ({ kind: objective } as const);
  const varied =
    variation === undefined
      ? rows
      : await rowVariants(rows, variation, 'labels' in kind ? { labels: kind.labels } : undefined);
  const found = feedbackUnits(varied, kind, { checkpoint, sequence });
  if (found.units.every(unit => unit.length === 0)) throw nothing();
  const { units, objective: loss } = found;
  const plain = variation && feedbackUnits(rows, kind, { checkpoint, sequence }).units;
  return { units, ...(loss && { objective: loss }), ...(plain && { plain }) };
}
