"""The help texts of the command line."""

USAGE = """\
redundancy: find the images a labelled data set does not need, and show what leaving them out costs.

  redundancy STAGE --config NAME[:ARG] --workdir DIR [--config.FIELD=VALUE ...] [--debug]

  redundancy run --config digits --workdir /tmp/digits       everything, in minutes, on a laptop
  redundancy import --workdir DIR --embeddings E.npy --labels Y.npy     your own embeddings, no training

The stages; each reads what the one before wrote in DIR (a folder, or gs://bucket/path):

  train    trains a ResNet on the full set              pretrain/
  embed    runs every training image through it         embeddings/LAYER/
  score    trains networks that score images, if a      scores/
           method such as el2n needs their scores
  link     links the images of each class, nearest      merges/LAYER/
           first, by complete linkage
  select   cuts the links at each fraction, keeps one   subsets/
           image of each group; draws random subsets
  sweep    trains on the full set and every subset,     runs/, results.csv
           several trials each, paired by seed
  report   puts the answer on one page                  report/index.html
  run      all of them, in order

Finished stages are skipped, and interrupted ones continue when the same command is given again. On SIGTERM the command saves
its state and ends with exit code 75. Other codes: 0 done, 1 an error, 2 a wrong command, 76 another process of the run was lost.

Other commands, without training:

  import   brings embeddings of any model into      "redundancy import --help"
           embeddings/LAYER/, for link and select
  export   writes the images that a subset keeps    "redundancy export --help"
           to a file for other tools
  status   shows the contents of a workdir, who     "redundancy status --help"
           works there, and when it will be done
  scores   imports, exports and lists scores, and   "redundancy scores --help"
           imports lists of kept images
  browse   shows the report of a workdir, local or  "redundancy browse --help"
           gs://, in the browser of this machine
  report --compare DIR DIR ... [--output PATH]      shows several finished workdirs in one figure and on one page
  configs    lists the configs that come along, or  "redundancy configs --help"
             prints the file of one to start from
  preflight  compiles for a TPU slice on a machine  "redundancy preflight --help"
             without one: memory, times, scaling

  --config    the name of a config that comes along: digits, fashion_mnist, cifar10, cifar100, imagenet, folder or
              embeddings; or the path of a Python file with get_config(arg), which has a slash or ends in .py. An argument
              may follow after a colon, for example a smaller variant: cifar10:quick, cifar10:smoke, ./mine.py:smoke
  --config.FIELD=VALUE  overrides a field, for example --config.fractions=0.9,0.8 --config.trials=5
  --scheduler for link and run: local:WORKERS, or tcp://HOST:PORT of a Dask scheduler; default: this machine
  --until     for run: the last stage, for example select; the sweep may then be shared, see --part
              for sweep: continues in rounds of trials, at least config.trials and at most --most, until no 95% interval is
              wider than this number of points to each side (--until=0.1), or until every verdict is reached
              (--until=verdict) with a planned number of looks (--looks, default 5). "select" and "report" need no such flags
  --stop-after   for run and sweep: saves and ends with exit code 75 before this time is over: 90s, 8m, 1h30m
  --join      for sweep: another workdir of this experiment, such as a copy that continued elsewhere. Takes over results that are
              missing here, refuses those of other trainings, overwrites nothing; then trains the runs that are still missing
  --profile   for train, sweep and run: traces some steps into the first run's folder, profile/, for TensorBoard
              and Perfetto
  --part      for sweep: I/N, I from 0: N machines share a sweep in one workdir, and each trains its own part of the
              runs. "sweep" without --part trains all remaining runs. The machine that ends last writes results.csv
  --coordinator, --num-processes, --process-id   for a run on several hosts, on each of them: HOST:PORT of process 0,
              the number of processes, and the number of this process; on Slurm or Kubernetes only --coordinator=auto. On
              Cloud TPU none is needed, since the hosts of a slice find each other. --coordinator=none: only this process
  --debug     shows the stack trace of an error
  --helpfull  the fields of a config, with their meaning and defaults

Your own images: --config folder:PATH, where PATH holds train/CLASS/*.jpg or CLASS/*.jpg.
"""

IMPORT_HELP = """\
redundancy import: copies embeddings of any model, with their labels, into a workdir, for link and select.

  redundancy import --workdir DIR --embeddings E.npy --labels Y.npy [--ids I.txt]
  redundancy import --workdir DIR --embeddings "part-*.parquet" --columns embedding=emb,label=cls,id=path
  redundancy link   --config embeddings --workdir DIR
  redundancy select --config embeddings --workdir DIR

  --embeddings   .npy [N, d] of float16, float32 or float64, or Parquet with a column of lists of d numbers: a file, or
                 a folder or quoted pattern of files, read one after the other. Rows of float64 outside of float32's range
                 are scaled by a power of two, which changes their length but not their cosines
  --order        number or text: how several files are sorted by name, if both orders differ (part-10 and part-2)
  --labels       .npy, .txt, .csv or Parquet with an integer, a name or a bool for each embedding; not needed if the
                 Parquet files of embeddings have a column of labels. Numbers 0 to K-1 are kept; other labels are numbered
                 in sorted order. Without any labels all embeddings are one class
  --ids          .txt with one id per line, .csv, .npy or Parquet: as written by "export --format txt" (optional)
  --columns      KEY=NAME,... where KEY is embedding (default: embedding), label (default: label) or id: columns of the
                 Parquet files, or label and id of a .csv with a header
  --class-names  .txt with one name per line, for the labels 0, 1, ... (optional)
  --labels-are   names or indices: the meaning of labels that could be both, such as 10 if a class is called "10"
  --layer        start, middle or end (default): the name of the store, embeddings/LAYER/
  --name         name of the data set (default: the name of the embeddings' file)
  --checkpoint   free text: which model made them
  --parts        number of files of the store (default: such that each has 256 MB)
  --config       the config of a data set, with its --config.FIELD=VALUE: the embeddings are those of its training
                 images in stored order, the labels are compared, and "sweep" can train on the subsets later

Without --config the position of an embedding is its row, counted from 0. Nothing is unpickled or overwritten. An interrupted
import continues when the same command is given again.
"""

EXPORT_HELP = """\
redundancy export: writes the images that a subset keeps, or its groups and embeddings, for other tools.

  redundancy export --workdir DIR --fraction 0.9 --format txt --output kept.txt
  redundancy export --workdir DIR --fraction 0.9 --format folder --output kept-images
  redundancy export --workdir DIR --fraction 0.9 --format groups-csv --output groups.csv
  redundancy export --workdir DIR --fraction 0.9 --format projector --output FOLDER [--limit 10000]

  --fraction   fraction of the subset, up to 1; one of those that were selected
  --format     txt      a line for each image: its name (its path in a folder of images, or its imported id), or its
                        position if there are no names; the log says which
               npy      the same as an array of texts or of int64 positions
               csv, parquet
                        a row for each image: position, label, class, id (its name; for TFDS its id), group, kept, and
                        dissimilarity to the kept image of its group
               folder   links to the images' files, in a folder for each class
               tfds     a line for each image: TFDS's own id, as from tfds.ReadConfig(add_tfds_id=True)
               groups-csv, groups-parquet
                        a row for every image, kept or not: the columns of parquet, the size of its group, and whether
                        it is kept at each fraction of the same method, layer and trial: kept_0.9000, ...
               projector
                        a folder for "tensorboard --logdir FOLDER": embeddings, class, group and kept; with the --config
                        of the data set also thumbnails
  --output     file to write, local or gs://, but not a pipe or device. For folder and projector: a new or empty folder
  --method     semantic (default), random, or another method of docs/methods.md
  --layer      start, middle or end (default): layer of a subset that is chosen from embeddings
  --trial      0, 1, ...: trial of a subset of a random method
  --dropped    exports the dropped images instead of the kept ones; not for groups and projector
  --overwrite  replaces an existing file; for projector, only its own files. Not for folder
  --null       txt: ends each name with a null byte, for "xargs -0" and for names that contain line breaks
  --link       folder: symlink (default), hard, or copy
  --images     folder: the present folder of the images, if the data set has moved
  --image-ids  the names of images: auto (default) as above; position, the position in the data set; tfds, TFDS's own id;
               none, no column id
  --config     the config of the data set, with its --config.FIELD=VALUE: for thumbnails of projector, and for names of image
               files if the workdir has none
  --limit      projector: largest number of images (default: 10000), drawn from each class by its share, equal at each call
"""

PREFLIGHT_HELP = """\
redundancy preflight: compiles a config's training and embedding step for a TPU slice or a GPU, on a machine that has none.
Prints for each chip memory, FLOPs and their least time, bytes, and collectives; for a GPU also kernels and an estimate of
images/s. Runs nothing, opens no data set. If a batch does not fit, suggests one that would, and ends with exit code 1.

  redundancy preflight --config imagenet --topology v5e:4x4
  redundancy preflight --config cifar10:gpu --topology h100 --trials 8

  --topology    GENERATION:AxB of v5e and v6e, GENERATION:AxBxC of v4 and v5p: chips along each axis; or h100, h200, a100, l4
  --config      as for training, with its --config.FIELD=VALUE; batch_size is that of the whole slice
  --image-size  side of the images in pixels (default: config.image_size, or the data set's)
  --classes     number of classes (default: the data set's, where its name is known)
  --trials      simultaneous trainings (default: 1, as in the stage train), spread over the chips as in sweep; on a GPU a pack
  --json        all numbers as JSON

Needs libtpu, pip install "redundancy[train,tpu]", or for a GPU pip install "redundancy[train,cuda]". ResNet-101 takes about ten minutes on two cores.
"""

STATUS_HELP = """\
redundancy status: shows the contents of a workdir, who works there, the progress, and when it will be done. It also works on
gs://, while other machines work there, after a kill, and in a damaged workdir. It writes nothing and takes no lease.

  redundancy status --workdir DIR

  --json      the same and more as JSON
  --watch     repeats every so many seconds until Ctrl-C: redraws a terminal, or adds a line to a log (with --json, a line of
              JSON)

Once two trials have a result, a line for each subset shows the certainty so far: the difference to the full set, the interval,
the verdict, and how many more trials, and minutes, would show that it is no worse. Not on gs://, where each result takes a
request. Damaged files are listed, and the exit code is then 1. Rates and the expected end come from the metrics of the current
runs, or from the times of results, without pauses. On gs:// metrics are as old as the last checkpoint. Errors are shown
until their command succeeds.
"""

SCORES_HELP = """\
redundancy scores: imports scores and lists of kept images from other tools, and exports a workdir's scores for other tools.

  redundancy scores import --workdir DIR --name cscore --scores FILE --id-column image
  redundancy scores import --workdir DIR --name el2n_paper --scores scores.npy --labels labels.npy
  redundancy scores export --workdir DIR --name el2n --output el2n.csv
  redundancy scores list   --workdir DIR

A score NAME becomes the method score_NAME: --config.methods=semantic,random,score_NAME. The workdir must have embeddings,
which identify its images.

  --name          name of the score: lowercase letters, digits, underscores
  --scores        .npy [N] or [N, T] of T networks, .npz (with --key), .csv, .tsv or Parquet, .txt with one number per line, or
                  .json {id: score}. Pickles are never opened
  --score-column, --id-column, --label-column   columns of a table; for an .npz file, --label-column is an array
  --ids           a file with the name of each score's image, in the same order: .txt, .npy, .csv or Parquet
  --labels        a file with the label of each score's image, in the same order
  --order         stored, class (sorted by class, stably) or names (sorted by name): the order of the scores, without ids
  --keep          high (default) or low: which scores are kept first
  --ranking       the file has image numbers in ascending order of score, like the masks of TDDS and DUAL
  --kept          the file lists the kept images, by name or number; only their fraction can then be selected
  --output        for export: .csv, .parquet or .npy; high scores are kept first
  --overwrite     replaces an existing score, or file, of that name

Scores are matched to images by id: a name, the end of a path, or a position. Without ids, the labels must agree with the
workdir's in one known order. Without labels, or if they are sorted by class, --order gives the order, which is not checked.
"""

REPORT_HELP = """\
redundancy report: writes the results to one page, DIR/report/index.html, with the figures beside it.

  redundancy report --config NAME --workdir DIR

  --config      as for the other stages, with its --config.FIELD=VALUE. The fields report_fraction, report_margin, report_classes
                and report_groups determine what the page shows; if they change, it is written again
  --style       paper: also writes DIR/report/paper/, for a paper: figure2.pdf (a column wide), table.tex (LaTeX with booktabs)
                and citation.bib. Nothing is trained. Give it again when there are new results
  --compare     several finished workdirs on one page: "redundancy report --compare --help"

For an unfinished sweep, the page shows the complete trials. "redundancy browse --workdir DIR" opens the page.
"""

BROWSE_HELP = """\
redundancy browse: serves the report of a workdir, local or gs://, at an address that only this machine can reach, and opens it
in the browser. It reads only the files of DIR/report/.

  redundancy browse --workdir DIR

  --port      port of the address (default: 8899)
  --no-open   does not open a browser

Ctrl-C ends it. To read the page of another machine on yours: ssh -L 8899:127.0.0.1:8899 USER@MACHINE, run the command there
with --no-open, and open http://127.0.0.1:8899/ here.
"""

CONFIGS_HELP = """\
redundancy configs: lists the configs that come with the program, or prints the file of one, to start your own.

  redundancy configs
  redundancy configs cifar10 > mine.py
  redundancy run --config ./mine.py --workdir DIR

--config takes a name, in any folder, or the path of a file. A file may import Python files of its folder ("import base") and of
the parent of that folder ("from configs import base"). It may also start from a config that comes along:
redundancy.config.load("cifar10:quick").
"""

HELP = {
    "import": IMPORT_HELP,
    "export": EXPORT_HELP,
    "preflight": PREFLIGHT_HELP,
    "status": STATUS_HELP,
    "browse": BROWSE_HELP,
    "scores": SCORES_HELP,
    "configs": CONFIGS_HELP,
}
