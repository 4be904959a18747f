import { invalid } from '../../base/errors.ts';
import type { EngineModel } from '../model/engine/index.ts';
import type { ModelConfig, WeightSource } from '../model/types.ts';
import { type PrunedModel, prune } from './prune.ts';
import { needsText, neuronScores, randomScores, type WidthMethod } from './scores.ts';
import { type DroppedLayer, slebLayers } from './sleb.ts';
import { type CalibrationStatistics, calibrationStatistics } from './statistics.ts';

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
  options: { onProgress?: (stage: string, done: number, total: number) => void } = {},
): PrunedByText {
  const { config } = source;
  const { ffn, dropLayers = 0, layersBy = 'influence', uneven, seed } = plan;
  const { method = config.attentionBias ? 'activation' : 'flap' } = plan;
  if (method === 'flap' && config.attentionBias && ffn !== undefined) {
    throw invalid('method', "flap adds a bias to down_proj, which qwen2 has not: use 'wanda' or 'activation'");
  }
  const byStatistics = (ffn !== undefined && needsText(method)) || (dropLayers > 0 && layersBy === 'influence');
  let statistics: CalibrationStatistics | undefined;
  let sleb: DroppedLayer[] | undefined;
  if (byStatistics || (dropLayers > 0 && layersBy === 'sleb')) {
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
