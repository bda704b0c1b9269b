// Lints a local tree on a lintmesh server, with nothing but the published protocol, loaded from `proto/` at run time.
// Prints a JSON object about the run and writes the bytes of the canonical result to a file.
'use strict';

const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const fs = require('node:fs');
const path = require('node:path');
const { parseArgs } = require('node:util');

const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const CHUNK = 256 * 1024;

const { values: options } = parseArgs({
  options: {
    address: { type: 'string' },
    proto: { type: 'string' },
    tree: { type: 'string' },
    result: { type: 'string' },
    timeout: { type: 'string', default: '240' },
  },
});

const definition = loader.loadSync(['lintmesh/v1/coordinator.proto', 'lintmesh/v1/workspace.proto'], {
  includeDirs: [options.proto],
  keepCase: true,
  longs: Number,
  enums: String,
  defaults: true,
  oneofs: true,
});
const api = grpc.loadPackageDefinition(definition).lintmesh.v1;
const credentials = grpc.credentials.createInsecure();
const coordinator = new api.CoordinatorService(options.address, credentials);
const workspace = new api.WorkspaceService(options.address, credentials);

const call = () => ({ deadline: Date.now() + Number(options.timeout) * 1000 });
const digest = (data) => crypto.createHash('sha256').update(data).digest('hex');

function unary(client, method, request) {
  return new Promise((resolve, reject) =>
    client[method](request, new grpc.Metadata(), call(), (error, answer) => (error ? reject(error) : resolve(answer))),
  );
}

async function collect(client, method, request) {
  const answers = [];
  for await (const answer of client[method](request, new grpc.Metadata(), call())) answers.push(answer);
  return answers;
}

function* filesOf(folder) {
  for (const entry of fs.readdirSync(folder, { withFileTypes: true })) {
    const full = path.join(folder, entry.name);
    if (entry.isDirectory() && entry.name !== '__pycache__') yield* filesOf(full);
    else if (entry.isFile()) yield full;
  }
}

// The digest of the tree's manifest, and all blobs of the snapshot by digest.
function snapshot(tree) {
  const blobs = new Map();
  const files = [];
  for (const full of filesOf(tree)) {
    const data = fs.readFileSync(full);
    const entry = {
      path: path.relative(tree, full).split(path.sep).join('/'),
      digest: digest(data),
      size: data.length,
    };
    if (!full.endsWith('.py')) entry.lint = false;
    blobs.set(entry.digest, data);
    files.push(entry);
  }
  files.sort((a, b) => Buffer.compare(Buffer.from(a.path), Buffer.from(b.path)));
  const manifest = Buffer.from(JSON.stringify({ version: 1, files }));
  blobs.set(digest(manifest), manifest);
  return { root: digest(manifest), blobs };
}

async function upload(blobs) {
  const question = { digests: [...blobs.keys()] };
  const { missing_digests: missing } = await unary(workspace, 'FindMissingBlobs', question);
  const answer = await new Promise((resolve, reject) => {
    const stream = workspace.UploadBlobs(new grpc.Metadata(), call(), (error, value) =>
      error ? reject(error) : resolve(value),
    );
    for (const name of missing) {
      const data = blobs.get(name);
      for (let start = 0; start < Math.max(data.length, 1); start += CHUNK) {
        stream.write({ digest: start === 0 ? name : '', data: data.subarray(start, start + CHUNK) });
      }
    }
    stream.end();
  });
  assert.equal(answer.blobs, missing.length);
  assert.deepEqual((await unary(workspace, 'FindMissingBlobs', question)).missing_digests, []);
}

function checkEvents(events) {
  assert.equal(events[0].event, 'started');
  assert.equal(events[0].sequence, 1);
  assert.equal(events.at(-1).event, 'finished');
  const numbers = events.map((event) => event.sequence).filter((number) => number !== 0);
  assert.deepEqual(numbers, [...numbers.keys()].map((index) => index + 1), 'recorded events are numbered without gaps');
  for (const event of events) {
    assert.equal(event.sequence === 0, ['progress', 'diagnostics'].includes(event.event), event.event);
    assert.equal(event.run_id, events[0].run_id);
  }
}

async function main() {
  const mesh = await unary(coordinator, 'InitializeMesh', {});
  assert.equal(mesh.ready, true);
  const status = await unary(coordinator, 'GetMeshStatus', {});
  assert.equal(Object.keys(status.node_statuses).length, 4);
  const { root, blobs } = snapshot(options.tree);
  await upload(blobs);
  const request = { project: 'interop-node', workspace: { snapshot: { digest: root } } };
  const events = (await collect(coordinator, 'Coordinate', request)).map((answer) => answer.event);
  checkEvents(events);
  const { finished, run_id: runId } = events.at(-1);
  const pieces = await collect(coordinator, 'DownloadReport', { run_id: runId, format: 'REPORT_FORMAT_RESULT' });
  const result = Buffer.concat(pieces.map((piece) => piece.data));
  assert.equal(digest(result), finished.report_digest);
  assert.equal(JSON.parse(result).diagnostics.length, finished.summary.diagnostics);
  fs.writeFileSync(options.result, result);

  const unknown = await unary(coordinator, 'GetRun', { run_id: 'no-such-run' }).catch((error) => error);
  assert.ok(unknown instanceof Error && [grpc.status.NOT_FOUND, grpc.status.INVALID_ARGUMENT].includes(unknown.code), unknown);
  console.log(
    JSON.stringify({
      run_id: runId,
      snapshot: root,
      outcome: finished.outcome,
      report_digest: finished.report_digest,
      files: finished.summary.files,
      diagnostics: finished.summary.diagnostics,
      events: events.length,
    }),
  );
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
