import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  closeSync,
  copyFileSync,
  existsSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { packageRoot } from './postgres.mjs';

/**
 * Native TensorFlow for @tensorflow/tfjs-node. Its own installer downloads from a host that many networks close, so:
 *   1. a build in the user's cache folder is linked into the package;
 *   2. on Linux x64 with pip and a C++ compiler: the library comes from the PyPI wheel of TensorFlow 2.15.1 (pinned by
 *      sha256) and the binding is compiled against it, then kept in the cache;
 *   3. else the package's own installer;
 *   4. else an error that lists what is missing.
 * 2.15.1 because it is the newest whose C library is measured to work with this binding and is not slower than later ones.
 */
const TENSORFLOW = '2.15.1';
const WHEEL_SHA256 = '54660c074d7241a503e81edfd9f5ef5af88f64051b72e2945f26318c790f2d26';
const BINDING = path.join('lib', 'napi-v8', 'tfjs_binding.node');
const LIBRARIES = ['libtensorflow_cc.so.2', 'libtensorflow_framework.so.2'];
/** Everything the package must hold for `require('@tensorflow/tfjs-node')` to work, relative to its root. */
const FILES = [BINDING, ...LIBRARIES.map(name => path.join('deps', 'lib', name))];
/** The headers that the binding's sources include, as folders in the wheel. */
const HEADERS = [
  'tensorflow/include/tensorflow/c/',
  'tensorflow/include/tensorflow/core/platform/',
  'tensorflow/include/tsl/',
];

export function setUpTensorflow({ say, force = false }) {
  const root = packageRoot('@tensorflow/tfjs-node');
  if (root === undefined) throw new Error('@tensorflow/tfjs-node is not installed: run npm install first');
  if (!force && installed(root)) return;

  const problems = [];
  const version = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')).version;
  const cached = path.join(
    cacheFolder(),
    `tfjs-node-${version}-tensorflow-${TENSORFLOW}-${process.platform}-${process.arch}`,
  );
  if (force) rmSync(cached, { recursive: true, force: true });
  if (!complete(cached)) build({ root, cached, say, problems });
  if (complete(cached)) {
    place(cached, root);
    const broken = smokeTest(root);
    if (broken === undefined) return say(`native TensorFlow ${TENSORFLOW} is ready`);
    problems.push(`the build in ${cached} does not load: ${broken} (npm run setup -- --force builds it anew)`);
    for (const file of FILES) rmSync(path.join(root, file), { force: true });
  }
  if (ownInstaller({ root, say, problems })) return say('native TensorFlow is ready (installed by the package itself)');
  throw new Error(
    `native TensorFlow could not be set up:\n${problems.map(p => `  - ${p}`).join('\n')}\n` +
      'To mend it: on Linux x64 install Python 3 with pip and a C++ compiler (Debian: apt-get install python3-pip g++) and let pip ' +
      `reach a package index, or put the wheel of tensorflow-cpu ${TENSORFLOW} (cp311, manylinux2014 x86_64) on this machine and name it in ` +
      'LEARND_TENSORFLOW_WHEEL; elsewhere let the installer of @tensorflow/tfjs-node download. Then: npm run setup',
  );
}

/** The package's own installer leaves other library names (libtensorflow.so.2), so the binding plus any library counts. */
function installed(root) {
  if (!existsSync(path.join(root, BINDING))) return false;
  const lib = path.join(root, 'deps', 'lib');
  if (!existsSync(lib)) return false;
  if (LIBRARIES.every(name => existsSync(path.join(lib, name)))) return true;
  return readdirSync(lib).some(name => /^libtensorflow\.(so|dylib)/.test(name));
}

function cacheFolder() {
  const home = process.env.XDG_CACHE_HOME ?? path.join(os.homedir(), '.cache');
  return path.join(home, 'learnd');
}

/** A cache folder counts only with its closing record, whose sizes must still hold. */
function complete(folder) {
  try {
    const { sizes } = JSON.parse(readFileSync(path.join(folder, 'complete.json'), 'utf8'));
    return FILES.every(file => statSync(path.join(folder, file)).size === sizes[file]);
  } catch {
    return false; // absent, cut short or unreadable: it is built anew
  }
}

function build({ root, cached, say, problems }) {
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    problems.push(`no pinned TensorFlow library for ${process.platform} ${process.arch}`);
    return;
  }
  const compiler = firstWorking([process.env.CXX, 'g++', 'c++', 'clang++'], ['--version']);
  if (compiler === undefined) problems.push('no C++ compiler (g++, c++ or clang++) on the PATH');
  const python = firstWorking([process.env.PYTHON, 'python3', 'python'], ['-m', 'pip', '--version']);
  if (python === undefined) problems.push('no Python 3 with pip on the PATH');
  const headers = packageRoot('node-api-headers');
  if (headers === undefined) problems.push('the package node-api-headers is not installed: run npm install');
  if (compiler === undefined || python === undefined || headers === undefined) return;

  removeAbandoned(cached);
  const folder = `${cached}.building-${process.pid}`;
  try {
    mkdirSync(path.join(folder, 'lib', 'napi-v8'), { recursive: true });
    mkdirSync(path.join(folder, 'deps'), { recursive: true });
    const wheel = obtainWheel({ python, folder, say });
    say('unpacking the TensorFlow library');
    unpack({ python, wheel, folder });
    say('compiling the TensorFlow binding');
    compile({ compiler, headers, root, folder });
    rmSync(path.join(folder, 'wheel'), { recursive: true, force: true });
    rmSync(path.join(folder, 'include'), { recursive: true, force: true });
    const sizes = Object.fromEntries(FILES.map(file => [file, statSync(path.join(folder, file)).size]));
    writeFileSync(
      path.join(folder, 'complete.json'),
      `${JSON.stringify({ tensorflow: TENSORFLOW, wheel: WHEEL_SHA256, sizes })}\n`,
    );
    // Another set-up may have finished meanwhile: its result is as good, and renaming onto a non-empty folder would fail.
    if (!complete(cached)) {
      rmSync(cached, { recursive: true, force: true });
      renameSync(folder, cached);
    }
  } catch (error) {
    problems.push(error instanceof Error ? error.message : String(error));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** A set-up that was killed leaves up to 900 MB behind. */
function removeAbandoned(cached) {
  const parent = path.dirname(cached);
  if (!existsSync(parent)) return;
  for (const name of readdirSync(parent)) {
    const pid = /\.building-(\d+)$/.exec(name)?.[1];
    if (pid === undefined || running(Number(pid))) continue;
    rmSync(path.join(parent, name), { recursive: true, force: true });
  }
}

function running(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}

function obtainWheel({ python, folder, say }) {
  const given = process.env.LEARND_TENSORFLOW_WHEEL;
  if (given !== undefined) {
    if (!existsSync(given)) throw new Error(`LEARND_TENSORFLOW_WHEEL names ${given}, which does not exist`);
    const found = sha256(given);
    if (found !== WHEEL_SHA256)
      throw new Error(`LEARND_TENSORFLOW_WHEEL: ${given} has sha256 ${found}, not ${WHEEL_SHA256}`);
    return given;
  }
  const target = path.join(folder, 'wheel');
  mkdirSync(target, { recursive: true });
  const requirements = path.join(target, 'requirements.txt');
  writeFileSync(requirements, `tensorflow-cpu==${TENSORFLOW} --hash=sha256:${WHEEL_SHA256}\n`);
  say(`downloading TensorFlow ${TENSORFLOW} by pip (207 MB, once for this user)`);
  // The wheel is taken for its C library only, so the platform is named and any Python's pip may fetch it.
  const platform = [
    '--platform',
    'manylinux2014_x86_64',
    '--implementation',
    'cp',
    '--python-version',
    '3.11',
    '--abi',
    'cp311',
  ];
  const options = [
    '--no-deps',
    '--require-hashes',
    '--only-binary=:all:',
    ...platform,
    '--disable-pip-version-check',
    '--no-cache-dir',
  ];
  run(
    python,
    ['-m', 'pip', 'download', '--quiet', ...options, '--dest', target, '-r', requirements],
    'pip download of tensorflow-cpu failed',
  );
  const wheel = readdirSync(target).find(name => name.endsWith('.whl'));
  if (wheel === undefined) throw new Error('pip download of tensorflow-cpu left no wheel');
  return path.join(target, wheel);
}

/** Takes the two libraries and the headers from the wheel (a zip file); Python is there already, unzip may not be. */
function unpack({ python, wheel, folder }) {
  const script = [
    'import sys, zipfile',
    'wheel, folder, *keep = sys.argv[1:]',
    'with zipfile.ZipFile(wheel) as z:',
    '    z.extractall(folder, [n for n in z.namelist() if n.startswith(tuple(keep))])',
  ].join('\n');
  const keep = [...LIBRARIES.map(name => `tensorflow/${name}`), ...HEADERS];
  run(python, ['-c', script, wheel, folder, ...keep], 'unpacking the TensorFlow wheel failed');
  mkdirSync(path.join(folder, 'deps', 'lib'));
  for (const name of LIBRARIES)
    renameSync(path.join(folder, 'tensorflow', name), path.join(folder, 'deps', 'lib', name));
  renameSync(path.join(folder, 'tensorflow', 'include'), path.join(folder, 'include'));
  rmSync(path.join(folder, 'tensorflow'), { recursive: true, force: true });
}

/** One compiler call; node-gyp and Node's own headers are not needed, the binding uses Node-API only. */
function compile({ compiler, headers, root, folder }) {
  const sources = ['tfjs_backend.cc', 'tfjs_binding.cc'].map(name => path.join(root, 'binding', name));
  const lib = path.join(folder, 'deps', 'lib');
  const args = [
    ...['-shared', '-fPIC', '-O2', '-std=c++17', '-w', '-DNAPI_VERSION=8'],
    ...['-I', path.join(headers, 'include'), '-I', path.join(folder, 'include')],
    ...sources,
    ...['-o', path.join(folder, BINDING), '-L', lib, ...LIBRARIES.map(name => `-l:${name}`)],
    '-Wl,-rpath,$ORIGIN/../../deps/lib',
  ];
  run(compiler, args, 'compiling the TensorFlow binding failed');
}

/** Hard links cost no disk; another file system gets symbolic links, and where those are refused, copies. */
function place(cached, root) {
  for (const file of FILES) {
    const from = path.join(cached, file);
    const to = path.join(root, file);
    mkdirSync(path.dirname(to), { recursive: true });
    const fresh = `${to}.new-${process.pid}`;
    for (const attempt of [linkSync, symlinkSync, copyFileSync]) {
      try {
        attempt(from, fresh);
        break;
      } catch (error) {
        if (attempt === copyFileSync) throw error;
      }
    }
    renameSync(fresh, to);
    // Renaming one hard link onto another of the same file does nothing and leaves the first: remove it.
    rmSync(fresh, { force: true });
  }
}

/** Loads the binding in a process of its own. Returns what went wrong, or undefined. */
function smokeTest(root) {
  const script =
    "const u=require('node:util');u.isNullOrUndefined??=v=>v==null;u.isArray??=Array.isArray;" +
    `const tf=require(${JSON.stringify(root)});const x=tf.tensor2d([1,2,3,4],[2,2]);` +
    "if(tf.matMul(x,x).dataSync().join()!=='7,10,15,22')throw new Error('wrong product')";
  const { status, stderr, error } = spawnSync(process.execPath, ['-e', script], {
    encoding: 'utf8',
    env: { ...process.env, TF_CPP_MIN_LOG_LEVEL: '2' },
  });
  if (status === 0) return undefined;
  return error?.message ?? lastLines(stderr);
}

function ownInstaller({ root, say, problems }) {
  say("trying the installer of @tensorflow/tfjs-node (downloads from TensorFlow's own host)");
  const bins = [path.join(root, 'node_modules', '.bin'), path.join(root, '..', '..', '.bin')];
  const { status, stderr, error } = spawnSync(process.execPath, [path.join(root, 'scripts', 'install.js')], {
    cwd: root,
    encoding: 'utf8',
    timeout: 15 * 60_000,
    env: { ...process.env, PATH: [...bins, process.env.PATH].join(path.delimiter) },
  });
  const broken =
    status === 0 && installed(root)
      ? smokeTest(root)
      : (error?.message ?? (status === 0 ? 'it left no binding' : lastLines(stderr)));
  if (broken === undefined) return true;
  problems.push(`the installer of @tensorflow/tfjs-node failed: ${broken}`);
  return false;
}

function firstWorking(commands, args) {
  return commands.find(command => command !== undefined && spawnSync(command, args, { stdio: 'ignore' }).status === 0);
}

function run(command, args, what) {
  const { status, stderr, error } = spawnSync(command, args, { encoding: 'utf8', maxBuffer: 64 << 20 });
  if (status !== 0) throw new Error(`${what}: ${error?.message ?? lastLines(stderr)}`);
}

/** The line that names the error, where there is one: a stack trace of Node ends with a version, not a reason. */
function lastLines(text) {
  const lines = (text ?? '').trim().split('\n');
  const named = lines.find(line => /^\w*Error\b/.test(line)) ?? lines.slice(-3).join(' | ');
  return named === '' ? 'no message' : named;
}

function sha256(file) {
  const hash = createHash('sha256');
  const descriptor = openSync(file, 'r');
  try {
    const chunk = Buffer.alloc(1 << 20);
    for (let n = readSync(descriptor, chunk); n > 0; n = readSync(descriptor, chunk)) hash.update(chunk.subarray(0, n));
  } finally {
    closeSync(descriptor);
  }
  return hash.digest('hex');
}
