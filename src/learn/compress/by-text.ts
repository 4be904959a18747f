import { invalid } from '../../base/errors.ts';
import type { EngineModel } from '../model/engine/index.ts';
import type { ModelConfig, WeightSource } from '../model/types.ts';
import { checkShape, type PrunedModel, prune } from './prune.ts';
import { needsText, neuronScores, randomScores, type WidthMethod } from './scores.ts';
import { type DroppedLayer, slebLayers } from './sleb.ts';
import { type CalibrationStatistics, calibrationStatistics } from './statistics.ts';
import type { Channel } from './unit-statistics.ts';

/** How whole layers are chosen. */
export const LAYER_METHODS = ['influence', 'sleb', 'random'] as const;
export type LayerMethod = (typeof LAYER_METHODS)[number];

export interface PruneByTextPlan {
  /** Width kept (the layers' average where `uneven`). */
  readonly ffn?: number;
  readonly dropLayers?: number;
  /** Default: flap, which measured best on SmolLM2 (docs/results/pruning.md); activation where the architecture has no place for its bias. */
  readonly method?: WidthMethod;
  /** Default: influence. */
  readonly layersBy?: LayerMethod;
  readonly uneven?: boolean;
  /** For the random floors. */
  readonly seed?: string;
}

/** The method of neurons where none is named. */
export const defaultMethod = (config: Pick<ModelConfig, 'attentionBias'>): WidthMethod =>
  config.attentionBias ? 'activation' : 'flap';

function checkPlan(config: ModelConfig, { ffn, dropLayers, method = defaultMethod(config) }: PruneByTextPlan): void {
  checkShape(config, { ...(ffn !== undefined && { ffn }), ...(dropLayers !== undefined && { dropLayers }) });
  if (method === 'flap' && config.attentionBias && ffn !== undefined)
    throw invalid('method', "flap adds a bias to down_proj, which qwen2 has not: use 'wanda' or 'activation'");
}

/** What a plan asks of private text (charged.ts). @throws LearndError('invalid') for what no release tells */
export function neededOf(config: ModelConfig, plan: PruneByTextPlan): { channels: Channel[]; influence: boolean } {
  const { ffn, dropLayers = 0, layersBy = 'influence', method = defaultMethod(config) } = plan;
  checkPlan(config, plan);
  if (dropLayers > 0 && layersBy === 'sleb')
    throw invalid('layers-by', 'sleb measures the loss on the text again and again: private text is looked at once');
  const channels: Channel[] = [];
  if (ffn !== undefined && (method === 'flap' || method === 'wanda')) channels.push('mean', 'rms');
  if (ffn !== undefined && method === 'activation') channels.push('meanAbs');
  const influence = dropLayers > 0 && layersBy === 'influence';
  if (channels.length === 0 && !influence)
    throw invalid('calibration', `${method} looks at no text: there is nothing to calibrate on private text`);
  return { channels, influence };
}

export interface PrunedByText extends PrunedModel {
  /** Layers dropped one after another, with the calibration loss after each; for `sleb`. */
  readonly sleb?: readonly DroppedLayer[];
  /** Tokens of calibration text looked at. */
  readonly calibrationTokens: number;
}

/**
 * Prunes a model by what its parts do on calibration text. `engine` loads the model when text is needed at all (magnitude and
 * random look at none) and is called at most once; it is disposed here.
 */
export function pruneByText(
  source: { config: ModelConfig; weights: WeightSource },
  engine: () => EngineModel,
  sequences: readonly (readonly number[])[],
  plan: PruneByTextPlan,
  options: {
    onProgress?: (stage: string, done: number, total: number) => void;
    /** Used instead of the text, which is then not looked at: what was released of private text. */
    statistics?: CalibrationStatistics;
  } = {},
): PrunedByText {
  const { config } = source;
  const { ffn, dropLayers = 0, layersBy = 'influence', uneven, seed } = plan;
  const { method = defaultMethod(config) } = plan;
  checkPlan(config, plan);
  const byStatistics = (ffn !== undefined && needsText(method)) || (dropLayers > 0 && layersBy === 'influence');
  let { statistics } = options;
  let sleb: DroppedLayer[] | undefined;
  if (statistics === undefined && (byStatistics || (dropLayers > 0 && layersBy === 'sleb'))) {
    const model = engine();
    try {
      if (byStatistics) {
        statistics = calibrationStatistics(model, sequences, {
          onBatch: (done, total) => options.onProgress?.('calibration', done, total),
        });
      }
      if (dropLayers > 0 && layersBy === 'sleb') {
        sleb = slebLayers(model, sequences, dropLayers, {
          onCandidate: (done, total) => options.onProgress?.('layers', done, total),
        });
      }
    } finally {
      model.dispose();
    }
  }
  const importance = {
    ffn: ffn === undefined ? [] : neuronScores(method, { ...source, statistics, seed }),
    blockInfluence:
      layersBy === 'random'
        ? randomScores(config.layers, seed, 'layers')
        : Float32Array.from(statistics?.influence ?? new Float64Array(config.layers)),
    ...(method === 'flap' && statistics && { compensation: statistics.mean }),
  };
  const pruned = prune(source, importance, {
    ...(ffn === undefined ? {} : { ffn }),
    ...(uneven && { uneven }),
    ...(sleb ? { layers: sleb.map(d => d.layer) } : plan.dropLayers === undefined ? {} : { dropLayers }),
  });
  return { ...pruned, ...(sleb && { sleb }), calibrationTokens: statistics?.tokens ?? 0 };
}
