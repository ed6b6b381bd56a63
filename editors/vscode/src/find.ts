// Where the server is: a setting, the Python environment, PATH, or an environment of our own. Starts nothing.

import * as fs from 'node:fs';
import * as path from 'node:path';
import * as vscode from 'vscode';

export interface Found {
  command: string;
  /** For people: where it was found. */
  where: string;
}

export interface NotFound {
  places: string[];
}

const IS_WINDOWS = process.platform === 'win32';
const PROGRAM = IS_WINDOWS ? 'lacuna.exe' : 'lacuna';
const BIN = IS_WINDOWS ? 'Scripts' : 'bin';

interface PythonApi {
  environments?: {
    getActiveEnvironmentPath(resource?: vscode.Uri): { path: string };
    resolveEnvironment(environment: unknown): Promise<{ executable: { uri?: vscode.Uri } } | undefined>;
  };
}

export function isExecutable(file: string): boolean {
  try {
    fs.accessSync(file, fs.constants.X_OK);
    return fs.statSync(file).isFile();
  } catch {
    return false;
  }
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
  return value.trim().replaceAll('${workspaceFolder}', folder).replace(/^~(?=[/\\])/, process.env.HOME ?? '~');
}

/** The environment selected in the Python extension, when that one is there and has run. */
async function selectedEnvironment(): Promise<string | undefined> {
  const python = vscode.extensions.getExtension<PythonApi>('ms-python.python');
  const environments = python?.isActive ? python.exports.environments : undefined;
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

export async function findServer(context: vscode.ExtensionContext): Promise<Found | NotFound> {
  const places: string[] = [];
  const look = (command: string, where: string): Found | undefined => {
    if (isExecutable(command)) {
      return { command, where };
    }
    places.push(`${where}: ${command}`);
    return undefined;
  };

  const configured = configuredPath();
  if (configured !== '') {
    // a setting that names nothing is a mistake to tell, not a reason to start something else
    return look(configured, 'lacuna.server.path') ?? { places };
  }
  if (vscode.workspace.isTrusted) {
    const selected = await selectedEnvironment();
    const folders = (vscode.workspace.workspaceFolders ?? []).filter((folder) => folder.uri.scheme === 'file');
    const candidates = [
      ...(selected ? [{ folder: selected, where: 'selected Python environment' }] : []),
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
  const roots = (vscode.workspace.workspaceFolders ?? []).map((folder) => folder.uri.fsPath + path.sep);
  for (const folder of (process.env.PATH ?? '').split(path.delimiter)) {
    const file = path.join(folder, PROGRAM);
    // a relative entry of PATH, or one inside an untrusted workspace, would let the workspace choose the program
    const isWorkspaces = !path.isAbsolute(folder) || (!vscode.workspace.isTrusted && roots.some((root) => file.startsWith(root)));
    if (!isWorkspaces && isExecutable(file)) {
      return { command: file, where: 'PATH' };
    }
  }
  places.push('PATH');
  return look(path.join(privateEnvironment(context), BIN, PROGRAM), 'private environment') ?? { places };
}
