/** What a contestant of the step bench is told; peer.py reads the same JSON. */
export interface StepModel {
  readonly vocabSize: number;
  readonly hidden: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly ffn: number;
  readonly batch: number;
  readonly length: number;
  readonly tied: boolean;
}

export interface StepSetting {
  readonly model: StepModel;
  readonly what: 'full' | 'lora';
  readonly rank: number;
  /** Ours: 'plain' or 'dp'; the peer's: 'plain', 'ghost' or 'hooks'. */
  readonly how: 'plain' | 'dp' | 'ghost' | 'hooks';
  readonly secure: boolean;
  readonly threads: number;
}

/** 30.7 million parameters. */
export const SMALL: StepModel = {
  ...{ vocabSize: 8192, hidden: 576, layers: 6, heads: 9, kvHeads: 3, headDim: 64, ffn: 1536 },
  ...{ batch: 8, length: 128, tied: false },
};

/** The shapes of SmolLM2-135M. */
export const SMOLLM2: StepModel = { ...SMALL, vocabSize: 49_152, layers: 30, tied: true };

export const setting = (json: string): StepSetting => JSON.parse(json) as StepSetting;
