import { type LlamaModel, TokenBias } from 'node-llama-cpp';

export type LogitBias = ReadonlyArray<readonly [token: number, logit: number]>;

/** node-llama-cpp's TokenBias speaks in probabilities and leaves out end-of-generation tokens; logits go straight into its map. */
export function tokenBias(model: LlamaModel, bias: LogitBias): TokenBias | undefined {
  if (bias.length === 0) return undefined;
  const result = TokenBias.for(model);
  const entries = (result as unknown as { _biases: Map<number, number> })._biases;
  for (const [token, logit] of bias) entries.set(token, (entries.get(token) ?? 0) + logit);
  return result;
}
