import type { Tensor } from './backend.ts';
import { tensorflow } from './backend.ts';

/**
 * TensorFlow ops that tfjs does not offer, or offers with more work around them (its 2-d matMul reshapes to 3-d and takes
 * the batched kernel), called by name. Results are tracked by `tf.tidy` like any other tensor.
 */
interface Attribute {
  name: string;
  type: number;
  value: unknown;
}
interface NodeBackend {
  binding: Record<string, number>;
  executeSingleOutput(name: string, attributes: Attribute[], inputs: Tensor[]): Tensor;
  executeMultipleOutputs(name: string, attributes: Attribute[], inputs: Tensor[], outputs: number): Tensor[];
}

let cached: { backend: NodeBackend; float: Attribute; flag: (name: string, value: boolean) => Attribute } | undefined;

function native() {
  if (cached) return cached;
  const backend = tensorflow().backend() as unknown as NodeBackend;
  const { TF_ATTR_TYPE, TF_ATTR_BOOL, TF_FLOAT } = backend.binding as {
    TF_ATTR_TYPE: number;
    TF_ATTR_BOOL: number;
    TF_FLOAT: number;
  };
  cached = {
    backend,
    float: { name: 'T', type: TF_ATTR_TYPE, value: TF_FLOAT },
    flag: (name, value) => ({ name, type: TF_ATTR_BOOL, value }),
  };
  return cached;
}

const typeAttribute = (name: string, type: 'TF_FLOAT' | 'TF_INT32'): Attribute => {
  const { binding } = native().backend;
  return { name, type: binding.TF_ATTR_TYPE!, value: binding[type] };
};

/** [m,k] x [k,n], each side transposed on demand. */
export function matMul(a: Tensor, b: Tensor, transposeA = false, transposeB = false): Tensor {
  const { backend, float, flag } = native();
  return backend.executeSingleOutput(
    'MatMul',
    [float, flag('transpose_a', transposeA), flag('transpose_b', transposeB)],
    [a, b],
  );
}

/** [..., m, k] x [..., k, n] for equal leading dimensions. */
export function batchMatMul(a: Tensor, b: Tensor, transposeA = false, transposeB = false): Tensor {
  const { backend, float, flag } = native();
  return backend.executeSingleOutput(
    'BatchMatMulV2',
    [float, flag('adj_x', transposeA), flag('adj_y', transposeB)],
    [a, b],
  );
}

/**
 * Cross-entropy of `labels` [n] (int32) under `logits` [n, classes]: the losses [n] in nats and their gradients with
 * respect to the logits [n, classes] (softmax minus one-hot), in one pass.
 */
export function sparseSoftmaxCrossEntropy(logits: Tensor, labels: Tensor): { loss: Tensor; gradient: Tensor } {
  const { backend, float } = native();
  const attributes = [float, typeAttribute('Tlabels', 'TF_INT32')];
  const [loss, gradient] = backend.executeMultipleOutputs(
    'SparseSoftmaxCrossEntropyWithLogits',
    attributes,
    [logits, labels],
    2,
  );
  return { loss: loss!, gradient: gradient! };
}

/** dy y (1 - y), for y = sigmoid(x). */
export function sigmoidGradient(y: Tensor, dy: Tensor): Tensor {
  const { backend, float } = native();
  return backend.executeSingleOutput('SigmoidGrad', [float], [y, dy]);
}

/** The last axis turned by `shift` places: by half its length, its halves are exchanged. */
export function rollLast(x: Tensor, shift: number): Tensor {
  const tf = tensorflow();
  const { backend, float } = native();
  const types = [float, typeAttribute('Tshift', 'TF_INT32'), typeAttribute('Taxis', 'TF_INT32')];
  return backend.executeSingleOutput('Roll', types, [x, tf.scalar(shift, 'int32'), tf.scalar(x.rank - 1, 'int32')]);
}

/** `values` [rows, columns] less 1 at the column given for each row: a softmax made into the gradient of a cross-entropy. */
export function lessOneAt(values: Tensor, columns: Int32Array): Tensor {
  const tf = tensorflow();
  const { backend, float } = native();
  const index = new Int32Array(2 * columns.length);
  columns.forEach((column, row) => {
    index[2 * row] = row;
    index[2 * row + 1] = column;
  });
  const at = tf.tensor2d(index, [columns.length, 2], 'int32');
  return backend.executeSingleOutput(
    'TensorScatterSub',
    [float, typeAttribute('Tindices', 'TF_INT32')],
    [values, at, tf.ones([columns.length])],
  );
}

/**
 * A TensorFlow variable: a tensor that ops change in place. `set` and `get` share memory with the tensor given or returned
 * where TensorFlow can; an op that changes the variable copies it first while anything else holds that memory.
 */
export interface Variable {
  set(value: Tensor): void;
  get(): Tensor;
  readonly handle: Tensor;
  dispose(): void;
}

let variables = 0;

export function variable(value: Tensor): Variable {
  const tf = tensorflow();
  const { backend } = native();
  const { TF_ATTR_STRING, TF_ATTR_SHAPE } = backend.binding;
  const dtype = typeAttribute('dtype', 'TF_FLOAT');
  const run = (name: string, attributes: Attribute[], inputs: Tensor[]) =>
    backend.executeMultipleOutputs(name, attributes, inputs, 0);
  const attributes = [
    dtype,
    { name: 'shape', type: TF_ATTR_SHAPE!, value: value.shape },
    { name: 'shared_name', type: TF_ATTR_STRING!, value: `learnd-${++variables}` },
  ];
  const handle = tf.keep(backend.executeSingleOutput('VarHandleOp', attributes, []));
  const set = (next: Tensor) => {
    run('AssignVariableOp', [dtype], [handle, next]);
  };
  set(value);
  return {
    handle,
    set,
    get: () => backend.executeSingleOutput('ReadVariableOp', [dtype], [handle]),
    dispose: () => {
      run('DestroyResourceOp', [], [handle]);
      handle.dispose();
    },
  };
}

/**
 * Adam in one pass over memory, in place: m and v are updated, then value -= rate * sqrt(1 - beta2Power) / (1 - beta1Power) * m /
 * (sqrt(v) + epsilon). Scalars are tensors of rank 0.
 */
export function applyAdam(
  { value, m, v }: Readonly<Record<'value' | 'm' | 'v', Variable>>,
  scalars: Readonly<Record<'beta1Power' | 'beta2Power' | 'rate' | 'beta1' | 'beta2' | 'epsilon', Tensor>>,
  gradient: Tensor,
): void {
  const { backend, float } = native();
  const { beta1Power, beta2Power, rate, beta1, beta2, epsilon } = scalars;
  const inputs = [value.handle, m.handle, v.handle, beta1Power, beta2Power, rate, beta1, beta2, epsilon, gradient];
  backend.executeMultipleOutputs('ResourceApplyAdam', [float], inputs, 0);
}
