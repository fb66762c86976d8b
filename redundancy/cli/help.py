"""The help texts of the command line."""

USAGE = """\
redundancy: find the images a labelled data set does not need, and show what leaving them out costs.

  redundancy STAGE --config NAME[:ARG] --workdir DIR [--config.FIELD=VALUE ...] [--debug]

  redundancy run --config digits --workdir /tmp/digits       everything, in minutes, on a laptop
  redundancy import --workdir DIR --embeddings E.npy --labels Y.npy     your own embeddings, no training

The stages; each reads what the one before wrote in DIR (a folder, or gs://bucket/path):

  train    trains a ResNet on the full set              pretrain/
  embed    runs every training image through it         embeddings/LAYER/
  score    scores images by networks of its own, for    scores/
           methods such as el2n, where one is asked for
  link     links the images of each class, nearest      merges/LAYER/
           first, by complete linkage
  select   cuts the links at each fraction, keeps one   subsets/
           image of each group; draws random subsets
  sweep    trains on the full set and every subset,     runs/, results.csv
           several trials each, paired by seed
  report   puts the answer on one page                  report/index.html
  run      all of them, in order

A finished stage is left alone, an interrupted one continues: give the same command again. SIGTERM saves and ends with
exit code 75. Other codes: 0 done, 1 an error, 2 a wrong command, 76 another process of the run was lost.

Other commands, without training:

  import   brings embeddings of any model into      "redundancy import --help"
           embeddings/LAYER/, for link and select
  export   writes what a subset keeps to a file     "redundancy export --help"
           for other tools
  status   what a workdir holds, who works there,   "redundancy status --help"
           and when it will be done
  scores   imports, exports and lists scores and    "redundancy scores --help"
           kept lists of other tools
  browse   serves the report of a workdir, gs://    "redundancy browse --help"
           too, to the browser of this machine
  report --compare DIR DIR ... [--output PATH]      several finished workdirs in one figure and on one page
  configs    the configs that come along, and the   "redundancy configs --help"
             file of each, to start one's own
  preflight  compiles for a TPU slice on a machine  "redundancy preflight --help"
             without one: memory, times, scaling

  --config    a config that comes along, by its name: digits, fashion_mnist, cifar10, cifar100, imagenet, folder or
              embeddings; or a Python file with get_config(arg), by its path, which has a slash or ends in .py. After a
              colon comes an argument, which shrinks it: cifar10:quick, cifar10:smoke, ./mine.py:smoke
  --config.FIELD=VALUE  overrides a field, for example --config.fractions=0.9,0.8 --config.trials=5
  --scheduler for link and run: local:WORKERS, or tcp://HOST:PORT of a Dask scheduler; default: this machine
  --until     for run: the last stage, for example select; the sweep may then be shared, see --part
              for sweep: goes on in rounds of trials, config.trials being the least and --most the most, until every 95%
              interval is at most so many points to each side (--until=0.1), or until every verdict is reached
              (--until=verdict), with --looks (5) planned ahead. "select" and "report" follow: no other flags are needed
  --stop-after   for run and sweep: saves and ends with exit code 75 in time before so long is over: 90s, 8m, 1h30m
  --join      for sweep: another workdir of this experiment, such as a copy that went on elsewhere. Takes over the results that
              lack here, refuses those of other trainings, overwrites nothing; then trains what still lacks
  --profile   for train, sweep and run: traces some steps into the first run's folder, profile/, for TensorBoard
              and Perfetto
  --part      for sweep: I/N, I from 0: N machines share a sweep in one workdir, and each trains its own part of the
              runs. "sweep" without it trains what is left. The machine that ends last writes results.csv
  --coordinator, --num-processes, --process-id   for a run on several hosts, on each of them: HOST:PORT of process 0,
              the number of processes, and the number of this one; on Slurm or Kubernetes only --coordinator=auto. On
              Cloud TPU give none: the hosts of a slice find each other. --coordinator=none: only this process
  --debug     shows the stack trace of an error
  --helpfull  the fields of a config, with their meaning and defaults

Your own images: --config folder:PATH, where PATH holds train/CLASS/*.jpg or CLASS/*.jpg.
"""

IMPORT_HELP = """\
redundancy import: brings embeddings that any model made, with their labels, into a workdir; then link and select them.

  redundancy import --workdir DIR --embeddings E.npy --labels Y.npy [--ids I.txt]
  redundancy import --workdir DIR --embeddings "part-*.parquet" --columns embedding=emb,label=cls,id=path
  redundancy link   --config embeddings --workdir DIR
  redundancy select --config embeddings --workdir DIR

  --embeddings   .npy [N, d] of float16, float32 or float64, or Parquet with a column of lists of d numbers: a file, or
                 a folder or quoted pattern of files, read one after the other. Rows of float64 beyond float32 are
                 scaled by a power of two: another length, the same cosines
  --order        number or text: the order of several files by their names, where these differ (part-10 and part-2)
  --labels       .npy, .txt or Parquet with a whole number, a name or a bool for each embedding, or .csv; not needed if
                 the Parquet files of embeddings have a column of labels. Numbers 0 to K-1 stay; others are numbered in
                 their sorted order. Without any labels all embeddings are one class
  --ids          .txt with one id a line, .csv, .npy or Parquet: what "export --format txt" writes (optional)
  --columns      KEY=NAME,... where KEY is embedding (default: embedding), label (default: label) or id: columns of the
                 Parquet files, or label and id of a .csv with a header
  --class-names  .txt with one name a line, for the labels 0, 1, ... (optional)
  --labels-are   names or indices: what labels are that may be both, such as 10 where a class is called "10"
  --layer        start, middle or end (default): the name of the store, embeddings/LAYER/
  --name         of the data set (default: the name of the embeddings' file)
  --checkpoint   free text: which model made them
  --parts        files of the store (default: as many as make 256 MB each)
  --config       the config of a data set, with its --config.FIELD=VALUE: the embeddings are those of its training
                 images in stored order, the labels are compared, and "sweep" can train on the subsets later

Without --config the position of an embedding is its row, counted from 0. Nothing is unpickled, nothing overwritten; an
interrupted import continues when the same command is given again.
"""

EXPORT_HELP = """\
redundancy export: writes what a subset keeps, or the groups and embeddings it came from, for other tools.

  redundancy export --workdir DIR --fraction 0.9 --format txt --output kept.txt
  redundancy export --workdir DIR --fraction 0.9 --format folder --output kept-images
  redundancy export --workdir DIR --fraction 0.9 --format groups-csv --output groups.csv
  redundancy export --workdir DIR --fraction 0.9 --format projector --output FOLDER [--limit 10000]

  --fraction   of the subset, exactly one that was selected, up to 1
  --format     txt      a line for each image: its name (the file's path in a folder of images, or an id that was
                        imported), or without names its position; the log says which
               npy      the same as an array: texts, or int64 positions
               csv, parquet
                        a row for each image: position, label, class, id (its name; for TFDS its id), group, kept, and
                        dissimilarity to the kept image of its group
               folder   links to the images' files, in a folder for each class
               tfds     a line for each image: TFDS's own id, as tfds.ReadConfig(add_tfds_id=True) gives it
               groups-csv, groups-parquet
                        a row for each image, kept or not: the columns of parquet, the size of its group, and for each
                        fraction selected by the method, layer and trial whether it is kept: kept_0.9000, ...
               projector
                        a folder for "tensorboard --logdir FOLDER": embeddings, class, group and kept; with --config of
                        the data set thumbnails, too
  --output     file to write, local or gs://; no folder, pipe or device. For folder and projector a folder, new or empty
  --method     semantic (default), random, or another of docs/methods.md
  --layer      start, middle or end (default): of a semantic subset
  --trial      0, 1, ...: of a subset that is drawn, such as those of random
  --dropped    the images left out, instead of those kept; not for groups and projector
  --overwrite  replaces a file that is there; for projector the files of its own. Not for folder
  --null       txt: ends each name with a null byte, as "xargs -0" reads them; for names that hold line breaks
  --link       folder: symlink (default), hard, or copy
  --images     folder: where the images lie, if not where the data set was
  --image-ids  what names an image: auto (default) as above; position, its position in the data set; tfds, TFDS's own id;
               none, no column id
  --config     the config of the data set, with its --config.FIELD=VALUE: thumbnails for projector, and names of image files
               for a workdir that has none
  --limit      projector: most images (default: 10000), drawn from each class by its share, the same at every call
"""

PREFLIGHT_HELP = """\
redundancy preflight: compiles a config's training and embedding step for a TPU slice or a GPU, on a machine that has none,
and prints for each chip: memory used, FLOPs and the least time they take, bytes, and collectives; for a GPU its kernels and
an estimate of images/s. Nothing runs, no data set is opened; for a batch that does not fit it names one that would, and ends with exit code 1.

  redundancy preflight --config imagenet --topology v5e:4x4
  redundancy preflight --config cifar10:gpu --topology h100 --trials 8

  --topology    GENERATION:AxB of v5e and v6e, GENERATION:AxBxC of v4 and v5p: chips along each axis; or h100, h200, a100, l4
  --config      as for training, with its --config.FIELD=VALUE; batch_size is that of the whole slice
  --image-size  side of the images in pixels (default: config.image_size, or the data set's)
  --classes     number of classes (default: the data set's, where its name is known)
  --trials      trainings at once (default: 1, as in the stage train), spread over the chips as sweep does; on a GPU a pack
  --json        all numbers as JSON

Needs libtpu, pip install "redundancy[train,tpu]", or for a GPU pip install "redundancy[train,cuda]". ResNet-101 takes about ten minutes on two cores.
"""

STATUS_HELP = """\
redundancy status: what a workdir holds, who works there, how far it is, and when it will be done. It also works on gs://
while other machines work there, after a kill, and in a damaged workdir. It writes nothing and takes no lease.

  redundancy status --workdir DIR

  --json      the same and more as JSON
  --watch     repeats after this many seconds until Ctrl-C: redraws a terminal, adds a line to a log, or with --json a line
              of JSON

Once two trials have a result, a line for each subset says how sure one is: its difference to the full set, the interval,
the verdict, and how many more trials, and minutes, would show it no worse. Not on gs://, where each result takes a request.
Exit code 1 if something is damaged; it is named. Rates and the expected end come from the metrics of the current runs, or
from the times of the results; pauses do not count. On gs:// metrics are as old as the last checkpoint. An error is shown
until its command succeeds.
"""

SCORES_HELP = """\
redundancy scores: brings scores and kept lists of other tools into a workdir, and writes its scores for other tools.

  redundancy scores import --workdir DIR --name cscore --scores FILE --id-column image
  redundancy scores import --workdir DIR --name el2n_paper --scores scores.npy --labels labels.npy
  redundancy scores export --workdir DIR --name el2n --output el2n.csv
  redundancy scores list   --workdir DIR

A score NAME becomes the method score_NAME: --config.methods=semantic,random,score_NAME. The workdir has embeddings, which
say what its images are.

  --name          of the score: small letters, digits, underscores
  --scores        .npy [N] or [N, T] of T networks, .npz (with --key), .csv, .tsv or Parquet, .txt with a number a line, or
                  .json {id: score}. Pickles are never opened
  --score-column, --id-column, --label-column   columns of a table; of an .npz file --label-column is an array
  --ids           a file with the name of each score's image, in the same order: .txt, .npy, .csv or Parquet
  --labels        a file with the label of each score's image, in the same order
  --order         stored, class (sorted by class, stably) or names (sorted by name): how the scores lie, if no ids say it
  --keep          high (default) or low: which scores are kept first
  --ranking       the file has image numbers in ascending score, as TDDS's and DUAL's masks
  --kept          the file lists the images that are kept, by name or number; for their fraction alone
  --output        of export: .csv, .parquet or .npy; high is kept first
  --overwrite     replaces a score, or a file, of that name

A score belongs to an image by its id: a name, a path's end, or a position. Without ids, the labels must agree with the
workdir's in one known order; without labels, or where they lie class by class, --order says it, and nothing checks it.
"""

REPORT_HELP = """\
redundancy report: puts the answer on one page, DIR/report/index.html, and the figures beside it.

  redundancy report --config NAME --workdir DIR

  --config      as for the other stages, with its --config.FIELD=VALUE. The fields report_fraction, report_margin, report_classes
                and report_groups say what the page shows; with other values it is made anew
  --style       paper: also writes DIR/report/paper/, for a paper: figure2.pdf (a column wide), table.tex (LaTeX with booktabs)
                and citation.bib. Nothing is trained. Give it again when there are new results
  --compare     several finished workdirs on one page: "redundancy report --compare --help"

An unfinished sweep has a page, too, of its complete trials. "redundancy browse --workdir DIR" opens the page.
"""

BROWSE_HELP = """\
redundancy browse: serves the report of a workdir, local or gs://, at an address of this machine, which no other machine
can reach, and opens it in the browser. It reads the files of DIR/report/ and nothing else.

  redundancy browse --workdir DIR

  --port      of the address (default: 8899)
  --no-open   opens no browser

Ctrl-C ends it. To read the page of another machine on yours: ssh -L 8899:127.0.0.1:8899 USER@MACHINE, run the command there
with --no-open, and open http://127.0.0.1:8899/ here.
"""

CONFIGS_HELP = """\
redundancy configs: the configs that come with the program, a line each; or the file of one, to start one's own.

  redundancy configs
  redundancy configs cifar10 > mine.py
  redundancy run --config ./mine.py --workdir DIR

--config takes a name from anywhere, and a file by its path. A file may import Python files of its folder ("import base"), of
the folder that holds this one ("from configs import base"), and start from a config that comes along, wherever it lies:
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
