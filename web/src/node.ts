/** The part of the driver that only runs in Node. */

export { folderFiles } from './bundle/folder_files.js';
