// Where the server is: a setting, the Python environment, PATH, or an environment of our own. Starts nothing.

import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import * as vscode from 'vscode';

export interface Found {
  command: string;
  /** For people: where it was found. */
  where: string;
}

export interface NotFound {
  places: string[];
  /** For people: what is wrong with the setting, when it is the setting. */
  mistake?: string;
}

const IS_WINDOWS = process.platform === 'win32';
const PROGRAM = IS_WINDOWS ? 'lacuna.exe' : 'lacuna';
const BIN = IS_WINDOWS ? 'Scripts' : 'bin';

/** How long the Python extension may take to start before it is done without. */
const PYTHON_LIMIT_MS = 5000;

interface PythonEnvironments {
  getActiveEnvironmentPath(resource?: vscode.Uri): { path: string };
  resolveEnvironment(environment: unknown): Promise<{ executable: { uri?: vscode.Uri } } | undefined>;
  onDidChangeActiveEnvironmentPath?: vscode.Event<unknown>;
}

export function isExecutable(file: string): boolean {
  try {
    fs.accessSync(file, fs.constants.X_OK);
    return fs.statSync(file).isFile();
  } catch {
    return false;
  }
}

function realPath(file: string): string {
  try {
    return fs.realpathSync.native(file);
  } catch {
    return path.resolve(file);
  }
}

/** Whether the workspace could have put this file there: by its name, or by where any link on the way to it leads. */
function isInWorkspace(file: string): boolean {
  const comparable = (one: string): string => (IS_WINDOWS ? one.toLowerCase() : one);
  const names = [path.resolve(file), path.join(realPath(path.dirname(file)), path.basename(file)), realPath(file)].map(comparable);
  const roots = (vscode.workspace.workspaceFolders ?? [])
    .flatMap(({ uri }) => [path.resolve(uri.fsPath), realPath(uri.fsPath)])
    .map((root) => comparable(root.endsWith(path.sep) ? root : root + path.sep));
  return names.some((name) => roots.some((root) => name.startsWith(root)));
}

/** Whether this may be started at all: an untrusted workspace must not choose the program. */
export function mayRun(file: string): boolean {
  return path.isAbsolute(file) && (vscode.workspace.isTrusted || !isInWorkspace(file));
}

/** The first of these programs on PATH that may be started. */
export function onPath(...names: string[]): string | undefined {
  const folders = (process.env.PATH ?? '').split(path.delimiter);
  return names
    .flatMap((name) => folders.map((folder) => path.join(folder, name)))
    .find((file) => mayRun(file) && isExecutable(file));
}

export function privateEnvironment(context: vscode.ExtensionContext): string {
  return path.join(context.globalStorageUri.fsPath, 'venv');
}

/** The user's setting; the workspace's only when the workspace is trusted. */
function configuredPath(): string {
  const setting = vscode.workspace.getConfiguration('lacuna.server').inspect<string>('path');
  const values = vscode.workspace.isTrusted
    ? [setting?.workspaceFolderValue, setting?.workspaceValue, setting?.globalValue]
    : [setting?.globalValue];
  const value = values.find((one) => typeof one === 'string' && one.trim() !== '') ?? '';
  const folder = vscode.workspace.workspaceFolders?.[0]?.uri.fsPath ?? '';
  return value.trim().replaceAll('${workspaceFolder}', () => folder).replace(/^~(?=[/\\])/, () => os.homedir());
}

/** What the Python extension tells of its environments, when it is there; it is started for that. */
export async function pythonEnvironments(): Promise<PythonEnvironments | undefined> {
  try {
    const python = vscode.extensions.getExtension<{ environments?: PythonEnvironments } | undefined>('ms-python.python');
    return (await python?.activate())?.environments;
  } catch {
    return undefined;
  }
}

/** Where the environment selected in the Python extension may have our program. */
async function selectedEnvironment(): Promise<string[]> {
  let timer: NodeJS.Timeout | undefined;
  const tooLong = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), PYTHON_LIMIT_MS);
  });
  try {
    const folder = await Promise.race([activeFolder(), tooLong]);
    // on Windows python.exe itself stands beside the programs only in a virtual environment
    return folder ? (IS_WINDOWS ? [folder, path.join(folder, BIN)] : [folder]) : [];
  } finally {
    clearTimeout(timer);
  }
}

async function activeFolder(): Promise<string | undefined> {
  const environments = await pythonEnvironments();
  if (!environments) {
    return undefined;
  }
  try {
    const active = environments.getActiveEnvironmentPath(vscode.workspace.workspaceFolders?.[0]?.uri);
    const resolved = await environments.resolveEnvironment(active);
    const executable = resolved?.executable.uri?.fsPath;
    return executable ? path.dirname(executable) : undefined;
  } catch {
    return undefined;
  }
}

function mistakeOf(command: string): string {
  const named = `lacuna.server.path: ${command}`;
  if (isExecutable(command) && path.isAbsolute(command)) {
    return vscode.l10n.t('Lacuna: {0} lies in a workspace that is not trusted', named);
  }
  return path.isAbsolute(command) || path.basename(command) === command
    ? vscode.l10n.t('Lacuna: {0} is not an executable', named)
    : vscode.l10n.t('Lacuna: {0} is not an absolute path', named);
}

export async function findServer(context: vscode.ExtensionContext): Promise<Found | NotFound> {
  const places: string[] = [];
  const look = (command: string, where: string): Found | undefined => {
    if (mayRun(command) && isExecutable(command)) {
      return { command, where };
    }
    places.push(`${where}: ${command}`);
    return undefined;
  };

  const configured = configuredPath();
  if (configured !== '') {
    // a setting that names nothing is a mistake to tell, not a reason to start something else
    const isName = path.basename(configured) === configured;
    const command = isName ? (onPath(configured, ...(IS_WINDOWS ? [`${configured}.exe`] : [])) ?? configured) : configured;
    return look(command, 'lacuna.server.path') ?? { places, mistake: mistakeOf(command) };
  }
  if (vscode.workspace.isTrusted) {
    const selected = await selectedEnvironment();
    const folders = (vscode.workspace.workspaceFolders ?? []).filter((folder) => folder.uri.scheme === 'file');
    const candidates = [
      ...selected.map((folder) => ({ folder, where: 'selected Python environment' })),
      ...folders.flatMap((folder) =>
        ['.venv', 'venv'].map((name) => ({ folder: path.join(folder.uri.fsPath, name, BIN), where: `${folder.name}/${name}` })),
      ),
    ];
    for (const { folder, where } of candidates) {
      const found = look(path.join(folder, PROGRAM), where);
      if (found) {
        return found;
      }
    }
  }
  const installed = onPath(PROGRAM);
  if (installed) {
    return { command: installed, where: 'PATH' };
  }
  places.push('PATH');
  return look(path.join(privateEnvironment(context), BIN, PROGRAM), 'private environment') ?? { places };
}
