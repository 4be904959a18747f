/** Ways to 68% of SmolLM2-135M's 134.5M parameters; its embedding, 28.3M of them, stays whole. */
export interface Way {
  readonly method: string;
  readonly ffn?: number;
  readonly dropLayers?: number;
  readonly layersBy?: string;
  readonly uneven?: boolean;
}

const SHAPE = { ffn: 1024, dropLayers: 6 } as const;

export const WAYS: Readonly<Record<string, Way>> = {
  // The shape: layers against width, at nearly one size.
  flap: { method: 'flap', ...SHAPE },
  'flap, width alone': { method: 'flap', ffn: 736 },
  'flap, 3 layers': { method: 'flap', ffn: 864, dropLayers: 3 },
  'flap, 9 layers': { method: 'flap', ffn: 1280, dropLayers: 9 },
  'layers alone': { method: 'flap', dropLayers: 12 },
  'flap, uneven': { method: 'flap', ...SHAPE, uneven: true },
  'flap, SLEB': { method: 'flap', ...SHAPE, layersBy: 'sleb' },
  // Baselines at the same shape.
  activation: { method: 'activation', ...SHAPE },
  wanda: { method: 'wanda', ...SHAPE },
  magnitude: { method: 'magnitude', ...SHAPE },
  random: { method: 'random', ...SHAPE, layersBy: 'random' },
};

export const SHOWN = Object.keys(WAYS).filter(way => way !== 'flap, SLEB');
